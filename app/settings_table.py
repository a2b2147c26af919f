"""`python -m app.settings_table` prints the settings as the table of the README."""

from pydantic import SecretStr

from app.settings import Settings, variable


def settings_table() -> str:
    """All settings that people may set, as a Markdown table."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if field.description is None:
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, dict):
            default = ",".join(f"{key}={value}" for key, value in default.items())
        shown = (
            f"`{default:g}`" if isinstance(default, float) else f"`{default}`" if default not in ("", None, ()) else ""
        )
        rows.append(f"| `{variable(name)}` | {shown} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_table())
