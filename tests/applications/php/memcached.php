<?php
// PHP's Memcached: its sessions in their defaults (binary protocol, locks, consistent hashing), and the
// class in both protocols.
ini_set('assert.exception', 1);
$port = (int) getenv('MEMCACHED_PORT');

function check(bool $condition, string $what): void
{
    if (!$condition) {
        fwrite(STDERR, "not true: $what\n");
        exit(1);
    }
}

function start(): void
{
    global $port;
    ini_set('session.save_handler', 'memcached');
    ini_set('session.save_path', "127.0.0.1:$port");
    ini_set('session.use_cookies', '0');
    ini_set('session.cache_limiter', '');
    ini_set('memcached.sess_lock_retries', '1000');
    session_id('visitor');
    check(session_start(), 'session_start');
}

// A page that counts its visits in a session. It is run as a process of its own, as PHP does.
if (($argv[1] ?? '') === 'page') {
    start();
    $visits = $_SESSION['visits'] ?? 0;
    usleep(20000);
    $_SESSION['visits'] = $visits + 1;
    $_SESSION['text'] = str_repeat('x', 10000);
    check(session_write_close(), 'session_write_close');
    exit(0);
}

check((bool) ini_get('memcached.sess_binary_protocol'), 'sessions use the binary protocol');
check((bool) ini_get('memcached.sess_locking'), 'sessions are locked');
$pages = [];
for ($number = 0; $number < 10; $number++) {
    $pages[] = proc_open([PHP_BINARY, __FILE__, 'page'], [], $pipes);
}
foreach ($pages as $page) {
    check(proc_close($page) === 0, 'a page');
}
start();
check($_SESSION['visits'] === 10, "no visit is lost: {$_SESSION['visits']}");
check(session_regenerate_id(true), 'session_regenerate_id');
check($_SESSION['visits'] === 10, 'after session_regenerate_id');
check(session_destroy(), 'session_destroy');

foreach ([true, false] as $binary) {
    $client = new Memcached();
    $client->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
    $client->setOption(Memcached::OPT_TCP_NODELAY, true);
    $client->addServer('127.0.0.1', $port);
    check($client->flush(), 'flush');
    $pairs = [];
    for ($number = 0; $number < 300; $number++) {
        $pairs["$number:m"] = ['number' => $number];
    }
    check($client->setMulti($pairs, 100), 'setMulti');
    check($client->getMulti([...array_keys($pairs), 'none']) == $pairs, 'getMulti');
    check($client->get('none') === false, 'a miss');
    check($client->getResultCode() === Memcached::RES_NOTFOUND, 'the code of a miss');
    check(!$client->add('1:m', 'other'), 'add');
    check($client->replace('1:m', 'other'), 'replace');
    $found = $client->get('1:m', null, Memcached::GET_EXTENDED);
    check($client->cas($found['cas'], '1:m', 'new'), 'cas');
    check(!$client->cas($found['cas'], '1:m', 'lost'), 'cas of a changed key');
    check($client->getResultCode() === Memcached::RES_DATA_EXISTS, 'the code of a changed key');
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    check($client->append('1:m', 'er'), 'append');
    check($client->prepend('1:m', 'the '), 'prepend');
    check($client->get('1:m') === 'the newer', 'append');
    if ($binary) {
        check($client->increment('n', 5, 10, 100) === 10, 'increment with a default');
    } else {
        $client->set('n', 10);
    }
    check($client->increment('n', 5) === 15, 'increment');
    check($client->decrement('n', 20) === 0, 'decrement');
    check($client->touch('1:m', 200), 'touch');
    check($client->getDelayed(['1:m', '2:m'], true), 'getDelayed');
    check(count($client->fetchAll()) === 2, 'fetchAll');
    $deleted = $client->deleteMulti(['1:m', 'none']);
    check($deleted == ['1:m' => true, 'none' => Memcached::RES_NOTFOUND], 'deleteMulti');
    $large = str_repeat('x', 900000);
    check($client->set('large', $large) && $client->get('large') === $large, 'a large value');
    check(!$client->set('larger', str_repeat('x', 2000000)), 'a value that is too large');
    check($client->getResultCode() === Memcached::RES_E2BIG, 'the code of one that is too large');
    check($client->get('2:m') == ['number' => 2], 'after it');
    check(str_starts_with(array_values($client->getVersion())[0], '1.6.'), 'getVersion');
    check(array_values($client->getStats())[0]['pid'] > 0, 'getStats');
    check($client->flush() && $client->getMulti(array_keys($pairs)) === [], 'flush');
    check($client->quit(), 'quit');
}
