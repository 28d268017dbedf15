# tests/isolation/test_table.py: which test covers what
"""Every item of the project's notes on twemproxy (A: found by running it, B: reported by its users)
and every rule of docs/architecture.md, with the attacks and tests that cover it. An attack is a
name in attacks.py, which test_attacks.py runs with innocent clients. Anything else is
`file::test`."""

import re
from pathlib import Path

import pytest

from tests.isolation.attacks import ATTACKS
from tests.unit.test_config_proofs import functions_of

DEFECTS = "integration/test_defects.py::test_"
COMMANDS = "integration/test_commands.py::test_"
MEMCACHE = "integration/test_memcache.py::test_"
BINARY = "integration/test_binary.py::test_"
HEALTH = "integration/test_server_health.py::test_"
REPLIES = "integration/test_server_replies.py::test_"
CONNECTIONS = "integration/test_server_connections.py::test_"
UNREAD = "isolation/test_unread_replies.py::test_"
BOUNDS = "isolation/test_bounds.py::test_"
LARGE = "isolation/test_large_requests.py::test_"
SLOW = "isolation/test_slow_and_stuck.py::test_"
MANY = "isolation/test_many_servers.py::test_"
GARBAGE = "integration/test_garbage.py::test_"
REFUSALS = "integration/test_refusals.py::test_"

SHOWN = {
    "A1 Memcached line feeds in keys": [
        "memcached_injections",
        "memcached_noreply_storm",
        "binary_injections",
        BINARY + "a_line_feed_in_a_key_forges_no_replies",
    ],
    "A2 lengths that Redis does not take": ["malformed_lengths", "huge_multibulk_counts"],
    "A3 EXISTS, ZUNION": [
        COMMANDS + "keys_behind_numkeys_are_what_routes",
        "wrong_arguments",
    ],
    "A4 a dead or silent shard": ["killed_server", "stopped_server"],
    "A5 unix sockets": [
        DEFECTS + "data_is_in_the_database_of_the_pool",
        "integration/test_stats.py::test_gauges_are_zero_when_everybody_has_gone",
    ],
    "A6 redis_auth and redis_db": [
        DEFECTS + "clients_are_told_why_a_handshake_failed",
        "password_guessing",
    ],
    "A7 client_connections": [
        "integration/test_log.py::test_a_refused_client_is_logged_ten_times_a_minute",
        "integration/test_descriptors.py::test_pools_with_client_connections_keep_their_places",
        "connect_storm",
    ],
    "A8 pipelined replies are lost": [
        DEFECTS + "what_is_owed_is_delivered_before_a_connection_ends",
        "wrong_arguments",
        "unknown_commands",
    ],
    "A9 OOM, LOADING, BUSY": ["full_server", "busy_server"],
    "A10 stale counters": [
        "integration/test_stats.py::test_figures_are_of_the_moment",
        "statistics_readers",
    ],
    "A11 pid file, SIGTERM": [
        "integration/test_daemon.py::test_pid_file_is_there_while_it_runs_and_removed_at_the_end",
        "integration/test_drain.py::test_no_request_is_lost_under_load",
    ],
    "A12 starved servers": [DEFECTS + "check_warns_of_rings_that_starve_a_server"],
    "A13 random and MGET": [DEFECTS + "random_distribution_draws_once_for_each_key"],
    "A14 half-made fragments": ["many_keys", UNREAD + "parts_of_commands_are_bounded_too"],
    "A15 MOVE": ["wrong_arguments", "commands_that_take_a_connection"],
    # The benchmark counts them, and fails for wrong replies.
    "A16 system calls": ["integration/test_bench.py::test_rows_run_from_end_to_end"],
    "A17 memory": [
        DEFECTS + "memory_of_a_burst_is_given_back",
        DEFECTS + "memory_of_a_slow_reader_is_bounded_and_given_back",
        "slow_readers",
        "deep_pipelines",
        "replies_larger_than_expected",
        "announced_and_not_sent",
        "binary_slow_readers",
        "binary_bodies_that_do_not_come",
    ],
    "A18 own writes": [
        DEFECTS + "client_reads_its_own_writes_over_several_server_connections",
    ],
    "B replies mixed up after a timeout, a stray or an early reply": [
        DEFECTS + "late_reply_reaches_nobody",
        DEFECTS + "stray_reply_reaches_nobody",
        DEFECTS + "early_reply_reaches_nobody",
        "vanishing_clients",
        "too_large_values",
    ],
    "B hangs: names, lengths at the edges of buffers, large values": [
        DEFECTS + "unresolvable_server_fails_only_its_own_keys",
        DEFECTS + "lengths_around_the_edges_of_chunks",
        SLOW + "a_name_server_that_hangs_delays_only_the_keys_of_its_server",
        "large_values",
    ],
    "B crashes: empty keys, mset a a a, long keys, all servers down": [
        DEFECTS + "degenerate_commands_are_answered",
        HEALTH + "when_all_servers_are_ejected_requests_are_refused_at_once",
        "wrong_arguments",
        "memcached_injections",
        "garbage",
    ],
    "B leaks": [
        DEFECTS + "memory_of_a_burst_is_given_back",
        "integration/test_clients_under_load.py::"
        "test_clients_that_leave_with_requests_in_flight_leave_nothing_behind",
        GARBAGE + "redis_pools_leave_no_cycle",
        GARBAGE + "memcached_pools_leave_no_cycle",
        GARBAGE + "binary_clients_leave_no_cycle",
        GARBAGE + "names_that_do_not_resolve_leave_no_cycle",
        GARBAGE + "timeouts_and_odd_servers_leave_no_cycle",
    ],
    "B descriptors run out": [
        DEFECTS + "clients_are_accepted_again_after_descriptors_ran_out",
        SLOW + "a_lack_of_descriptors_does_not_affect_connected_clients",
        "connect_storm",
    ],
    "B forms of replies": [
        DEFECTS + "replies_of_odd_forms_pass_unchanged",
        DEFECTS + "replies_that_come_a_byte_at_a_time",
        "odd_replies",
    ],
    "B ejection": [
        HEALTH + "one_event_on_many_connections_is_one_failure",
        HEALTH + "no_request_fails_between_the_ejection_and_the_return",
    ],
    "B PING is slow on fresh connections": [
        "integration/test_loop.py::test_delays_of_small_packets_are_off_on_both_sides",
        "quit_storm",
    ],
    "B dead client connections": [
        "integration/test_conf.py::test_tcpkeepalive_is_set_towards_servers_and_clients",
        "half_closed_clients",
    ],
    "B false timeouts with many queued requests": [
        HEALTH + "a_reply_that_takes_longer_than_two_timeouts_does_not_close_its_connection",
        HEALTH + "a_timed_out_request_does_not_fail_its_neighbours",
    ],
    "B unresolvable at the start, IPv6, permissions": [
        CONNECTIONS + "a_name_that_does_not_resolve_is_told_to_clients_and_hurts_no_other_server",
        DEFECTS + "both_sides_may_be_ipv6",
        DEFECTS + "unix_listener_has_its_permissions",
    ],
    "B input cut anywhere, 100,000 keys, empty and binary values": [
        "byte_by_byte",
        "binary_headers_that_trickle",
        "stuck_in_the_middle",
        "many_keys",
        MEMCACHE + "a_hundred_thousand_keys",
    ],
    "rule 1": [
        REPLIES + "a_stray_reply_closes_its_connection_and_reaches_nobody",
        "vanishing_clients",
        "replies_switched_off",
        "protocol_switching",
        "large_values_that_break_off",
    ],
    "rule 2": [
        "malformed_lengths",
        "memcached_injections",
        "other_protocols",
        "garbage",
        "lines_without_an_end",
        "commands_that_take_a_connection",
        "integration/test_lua_replies.py::"
        "test_any_reply_of_a_script_is_passed_on_and_ends_no_connection",
        "integration/test_blocking.py::test_wait_holds_up_nobody_else",
        REFUSALS + "no_refusal_lets_through_what_redis_would_not_have_carried_out",
        REFUSALS + "no_command_is_carried_out_within_a_refused_transaction",
        REFUSALS + "no_command_reaches_the_data_after_a_refused_select",
        "integration/test_memcache_refusals.py::"
        "test_every_field_is_taken_or_refused_as_memcached_does_and_no_block_is_run",
        "integration/test_memcache_refusals.py::"
        "test_random_lines_are_taken_or_refused_as_memcached_does",
        BINARY + "what_follows_the_key_is_never_read_as_requests",
        "integration/test_binary_differential.py::test_lengths_are_checked_as_by_memcached",
    ],
    "rule 3": ["unknown_commands", "wrong_arguments", "killed_server"],
    "rule 4": [
        "full_server",
        "busy_server",
        REPLIES + "a_server_s_own_error_is_passed_through_to_its_request_alone",
    ],
    "rule 5": [
        "deep_pipelines",
        "binary_storms",
        BINARY + "quiet_gets_have_only_hits_in_the_order_of_the_requests",
        DEFECTS + "client_reads_its_own_writes_over_several_server_connections",
    ],
    "rule 6": [
        BOUNDS + "unfinished_requests_of_all_clients_are_bounded",
        BOUNDS + "a_line_without_an_end_is_not_kept",
        BOUNDS + "a_reply_above_the_bound_is_not_kept",
        BOUNDS + "a_value_of_memcached_above_the_bound_is_not_kept",
        BOUNDS + "what_follows_a_dropped_reply_is_understood",
        BOUNDS + "names_of_clients_are_bounded",
        "slow_readers",
        "replies_larger_than_expected",
        "stopped_server",
        UNREAD + "replies_above_the_bound_are_errors_in_their_places",
        UNREAD + "binary_clients_are_told_in_their_protocol",
        "integration/test_clients_under_load.py::"
        "test_a_client_is_not_read_above_its_limit_of_bytes",
        "integration/test_clients_under_load.py::"
        "test_a_client_is_read_on_when_half_of_its_bytes_are_answered",
        "integration/test_clients_under_load.py::"
        "test_requests_beyond_the_queue_of_a_server_are_refused_until_it_has_drained",
    ],
    "rule 7": [
        LARGE + "a_redis_command_with_a_million_arguments_holds_up_no_other_pool",
        LARGE + "a_memcached_command_with_a_million_words_holds_up_no_other_pool",
        LARGE + "the_longest_request_that_is_not_refused_holds_up_no_other_pool",
        LARGE + "a_redis_command_with_an_argument_of_64_mb_holds_up_no_other_pool",
        LARGE + "a_memcached_command_with_a_word_or_a_value_of_64_mb_holds_up_no_other_pool",
        LARGE + "many_requests_of_the_binary_protocol_hold_up_no_other_pool",
        LARGE + "a_binary_request_with_a_long_body_holds_up_no_other_pool",
        LARGE + "what_is_not_a_command_holds_up_no_other_pool",
        LARGE + "a_pipeline_of_commands_that_the_proxy_answers_holds_up_no_other_pool",
        MANY + "a_thousand_servers_at_rest_cost_no_processor_time",
        MANY + "a_thousand_servers_that_die_at_once_delay_no_other_pool",
        SLOW + "a_name_server_that_hangs_delays_only_the_keys_of_its_server",
        SLOW + "a_storm_of_connects_does_not_delay_connected_clients",
        "whole_keyspaces",
        "statistics_readers",
        "integration/test_log.py::test_a_log_that_cannot_be_written_is_reported_once_and_the_"
        "proxy_goes_on",
    ],
    "rule 8": [
        HEALTH + "a_timed_out_request_does_not_fail_its_neighbours",
        HEALTH + "requests_time_out_when_their_time_has_come",
        HEALTH + "a_late_reply_does_not_replace_an_error_that_waits_to_be_sent",
        HEALTH + "a_request_that_timed_out_half_written_is_written_to_its_end_and_none_behind_it",
        HEALTH + "a_connection_that_falls_silent_after_a_timeout_is_closed",
        HEALTH + "a_connection_is_not_closed_before_it_has_been_silent_for_two_timeouts",
        BOUNDS + "a_request_that_stands_still_ends_its_client_alone",
        BOUNDS + "a_slow_upload_takes_as_long_as_it_likes",
        BOUNDS + "a_client_that_the_proxy_does_not_read_does_not_time_out",
    ],
    "rule 9": ["unit/test_config_proofs.py::test_key_is_tested_where_it_acts"],
    "rule 10": [
        "compat/test_stats_nutcracker.py::test_names_order_and_spacing_are_equal",
    ],
}


def test_every_item_and_rule_has_tests():
    architecture = Path(__file__).parents[2] / "docs" / "architecture.md"
    rules = re.findall(
        r"^(\d+)\. ", architecture.read_text().split("## The rules")[1], re.MULTILINE
    )
    found = [item.split()[0] for item in SHOWN if item.startswith("A")]
    assert found == [f"A{number}" for number in range(1, 19)]
    assert [item for item in SHOWN if item.startswith("rule")] == [f"rule {n}" for n in rules]


@pytest.mark.parametrize("item", SHOWN)
def test_every_test_and_attack_of_an_item_exists(item):
    for name in SHOWN[item]:
        path, behind, test = name.partition("::")
        if behind:
            assert test in functions_of(path), name
        else:
            assert name in ATTACKS, name


def test_every_attack_belongs_to_an_item():
    assert set(ATTACKS) == {name for names in SHOWN.values() for name in names if "::" not in name}
