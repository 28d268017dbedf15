# nutproxy/config/__init__.py: the interface of the configuration package
"""The configuration file: that of twemproxy, with `global` and `defaults` next to the pools.

    file ──load──> lines and text ──model──> Config ──> the worker
              └──> problems and warnings, all of them, in the order of their lines

    values.py   the forms of a value: addresses, servers, sizes, times
    model.py    the table of keys with their help texts; the result objects; the JSON Schema
    load.py     reads a file and reports everything that is wrong with it
    docs.py     generates docs/configuration.md from the table

A Config exists only if the file has no problems. It is frozen: it does not change after the start,
and every worker uses the same one.
"""

from nutproxy.config.load import Problem, load
from nutproxy.config.model import Config, GlobalConfig, Options, PoolConfig, schema
from nutproxy.plain import Address, ServerConfig, index_order

__all__ = [
    "Address",
    "Config",
    "GlobalConfig",
    "Options",
    "PoolConfig",
    "Problem",
    "ServerConfig",
    "index_order",
    "load",
    "schema",
]
