# tests/applications: applications and clients of Redis in front of a pool of three servers
"""Each scenario is a small program that uses an application or a client as its users do, and checks
what it gets. It runs twice: with one Redis directly, which shows that the scenario itself is right,
and with nutproxy and three Redis servers.

    python/NAME/     requirements.txt, scenario.py
    node/NAME/       package.json, scenario.mjs
    php/, ruby/      one file for each scenario; their libraries are Debian's
    go/, java/, rust/NAME/      clients, for `make clients`

All versions are pinned. The environments are installed in .applications when they are first used
(tests.applications.environments).
"""
