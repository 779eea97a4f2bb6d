"""Logins to providers from Airflow's connections, for those who run outside of Airflow's tasks.

Airflow itself reads AIRFLOW_CONN_<NAME> before it asks its database, and so do we: JSON such as
{"conn_type": "generic", "password": "..."} or a URI such as generic://<login>:<password>@.
"""

import json
import os
from urllib.parse import unquote, urlsplit

from sightline.errors import ConfigError
from sightline.sources.access import Credential


def from_environment(connection: str) -> Credential | None:
    """The login of a connection that the environment declares, or None."""
    variable = f"AIRFLOW_CONN_{connection.upper()}"
    value = os.environ.get(variable)
    if not value:
        return None
    if not value.lstrip().startswith("{"):
        parts = urlsplit(value)
        return Credential(unquote(parts.username or ""), unquote(parts.password or ""))
    try:
        fields = json.loads(value)
    except json.JSONDecodeError:
        raise ConfigError(f"{variable} begins like JSON but is none; correct it.") from None
    return Credential(fields.get("login") or "", fields.get("password") or "")
