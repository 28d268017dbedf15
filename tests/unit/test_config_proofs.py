# tests/unit/test_config_proofs.py: every key has a test of its effect
"""A key that is accepted and has no effect is a bug. Every key is therefore listed here with a test
that uses it with real servers. A new key without a test fails."""

import ast
from functools import cache
from pathlib import Path

import pytest

from nutproxy.config.model import GlobalConfig, PoolKeys

TESTS = Path(__file__).parents[1]

PROOFS = {
    # global
    "verbose": "integration/test_conf.py::test_settings_of_the_process_may_stand_in_the_file",
    "output": "integration/test_conf.py::test_settings_of_the_process_may_stand_in_the_file",
    "workers": "integration/test_workers.py::test_auto_is_a_worker_for_each_core",
    "worker_timeout": "integration/test_workers.py::"
    "test_a_stopped_worker_is_replaced_after_worker_timeout",
    "mbuf_size": "integration/test_conf.py::test_settings_of_the_process_may_stand_in_the_file",
    "coalesce": "integration/test_coalesce.py::test_off_never_rests",
    "log_format": "integration/test_log.py::test_json_for_machines",
    "shutdown_timeout": "integration/test_drain.py::"
    "test_a_server_that_hangs_makes_the_timeout_end_it",
    # pools
    "listen": "integration/test_defects.py::test_both_sides_may_be_ipv6",
    "servers": "integration/test_conf.py::test_each_of_20_pools_has_its_own_servers_and_database",
    "hash": "compat/test_routing_nutcracker.py::test_every_key_is_where_nutcracker_puts_it",
    "hash_tag": "integration/test_commands.py::test_keys_with_one_tag_work_together",
    "distribution": "compat/test_routing_nutcracker.py::test_every_key_is_where_nutcracker_puts_it",
    "timeout": "integration/test_server_health.py::"
    "test_a_stopped_server_costs_each_request_a_timeout_at_most_and_later_ones_nothing",
    "backlog": "integration/test_conf.py::test_backlog_is_the_kernels",
    "client_connections": "integration/test_conf.py::"
    "test_client_beyond_client_connections_is_told_so_and_closed",
    "tcpkeepalive": "integration/test_conf.py::"
    "test_tcpkeepalive_is_set_towards_servers_and_clients",
    "tcpkeepalive_idle": "integration/test_conf.py::"
    "test_tcpkeepalive_is_set_towards_servers_and_clients",
    "tcpkeepalive_interval": "integration/test_conf.py::"
    "test_tcpkeepalive_is_set_towards_servers_and_clients",
    "tcpkeepalive_count": "integration/test_conf.py::"
    "test_tcpkeepalive_is_set_towards_servers_and_clients",
    "tcp_congestion": "integration/test_conf.py::"
    "test_tcp_congestion_is_set_towards_servers_and_clients",
    "reuseport": "integration/test_conf.py::test_two_proxies_share_a_port_with_reuseport",
    "preconnect": "integration/test_server_connections.py::"
    "test_preconnect_opens_all_connections_of_every_server_at_the_start",
    "redis": "integration/test_clients.py::test_redis_py_in_normal_use",
    "redis_auth": "integration/test_defects.py::test_data_is_in_the_database_of_the_pool",
    "redis_db": "integration/test_defects.py::test_data_is_in_the_database_of_the_pool",
    "databases": "integration/test_databases.py::test_a_pool_has_as_many_databases_as_it_says",
    "max_profiles": "integration/test_databases.py::"
    "test_clients_share_no_more_combinations_than_max_profiles",
    "max_blocked": "integration/test_blocking.py::test_only_max_blocked_clients_wait",
    "users": "integration/test_memcache_users.py::test_text_clients_authenticate_as_with_memcached",
    "protocol": "integration/test_conf.py::test_protocol_decides_what_memcached_clients_speak",
    "on_dead_server": "integration/test_conf.py::"
    "test_on_dead_server_decides_what_becomes_of_its_keys",
    "auto_eject_hosts": "integration/test_server_health.py::"
    "test_an_ejected_server_s_keys_go_to_the_others_and_come_back_with_it",
    "server_connections": "integration/test_conf.py::"
    "test_clients_keep_their_order_over_several_server_connections",
    "server_retry_timeout": "integration/test_server_health.py::"
    "test_a_short_retry_timeout_does_not_keep_the_processor_busy",
    "server_failure_limit": "integration/test_server_health.py::"
    "test_refused_connects_count_as_failures_of_one_server",
    "subscribe_gap": "integration/test_pubsub.py::"
    "test_subscribe_gap_close_ends_the_clients_of_that_server_alone",
    "max_subscriptions": "integration/test_pubsub.py::"
    "test_more_subscriptions_than_a_pool_allows_are_refused",
    "max_tracked_keys": "integration/test_tracking.py::test_a_full_table_reports_what_it_forgets",
    "transactions": "integration/test_transactions.py::"
    "test_split_transactions_are_carried_out_by_every_server",
    "admin_commands": "integration/test_commands.py::"
    "test_administration_is_refused_unless_the_pool_allows_it",
    "deny_commands": "integration/test_commands.py::test_denied_commands_are_refused",
    "custom_commands": "integration/test_custom_commands.py::"
    "test_custom_commands_go_to_the_server_of_their_keys",
    "client_max_requests": "integration/test_clients_under_load.py::"
    "test_a_client_is_not_read_above_its_limit_of_requests",
    "client_max_pending": "integration/test_clients_under_load.py::"
    "test_a_client_with_more_bytes_than_its_limit_gets_everything_in_order",
    "client_query_buffer_limit": "isolation/test_bounds.py::"
    "test_unfinished_requests_of_all_clients_are_bounded",
    "client_request_timeout": "isolation/test_bounds.py::"
    "test_a_request_that_stands_still_ends_its_client_alone",
    "server_max_queue": "integration/test_clients_under_load.py::"
    "test_requests_beyond_the_queue_of_a_server_are_refused_until_it_has_drained",
    "max_merged_reply": "integration/test_scan.py::"
    "test_keys_with_more_bytes_than_max_merged_reply_is_an_error",
    "proto_max_bulk_len": "integration/test_defects.py::"
    "test_bounds_of_the_server_are_those_of_the_proxy",
}


@cache
def functions_of(path):
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("key", [*GlobalConfig.model_fields, *PoolKeys.model_fields])
def test_key_is_tested_where_it_acts(key):
    assert key in PROOFS, "name the test that proves, with real servers, that the key acts"
    path, _, name = PROOFS[key].partition("::")
    assert name in functions_of(path)


def test_no_test_is_listed_for_a_removed_key():
    assert PROOFS.keys() <= GlobalConfig.model_fields.keys() | PoolKeys.model_fields.keys()
