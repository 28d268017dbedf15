# nutproxy/config/__init__.py: what the rest of nutproxy uses of the configuration
"""The configuration file: twemproxy's, with `global` and `defaults` beside the pools.

    file ──load──> lines and text ──model──> Config ──> the worker
              └──> problems and warnings, all of them, in the order of their lines

    values.py   the forms of a value: addresses, servers, sizes, times
    model.py    the table of keys with their help texts; the result objects; the JSON Schema
    load.py     reading a file, and everything that can be wrong with it
    docs.py     docs/configuration.md, from the table

A Config exists only when the file has no problem at all. It is frozen: nothing changes it after the
start, and every worker sees the same one.
"""

from nutproxy.config.load import Problem, load
from nutproxy.config.model import Config, GlobalConfig, Options, PoolConfig, schema
from nutproxy.config.values import Address, ServerConfig, index_order

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
