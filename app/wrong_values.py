"""What a person reads when a setting has a wrong value: what would be right, in our own words."""

from typing import Any, Final

# By the type of a pydantic error; the braces are filled from its context.
_SENTENCES: Final = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not such a long one",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be 1 or 0",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "value_error": "{error}",
}


def what_is_right(kind: str, context: dict[str, Any]) -> str:
    """The sentence for a kind of error; never the value, which may be a secret."""
    shown = {name: int(of) if isinstance(of, float) and of.is_integer() else of for name, of in context.items()}
    return _SENTENCES.get(kind, "is not right: see the settings table of the README").format(**shown)
