<?php
// phpredis: commands, pipelines, transactions, scripts, pub/sub, scans, and PHP's sessions with locks.
ini_set('assert.exception', 1);
$port = (int) getenv('REDIS_PORT');

function connect(): Redis
{
    global $port;
    $redis = new Redis();
    $redis->connect('127.0.0.1', $port, 30);
    return $redis;
}

function check(bool $condition, string $what): void
{
    if (!$condition) {
        fwrite(STDERR, "not true: $what\n");
        exit(1);
    }
}

// A page that counts its visits in a session. It is run as a process of its own, as PHP does.
if (($argv[1] ?? '') === 'page') {
    ini_set('session.save_handler', 'redis');
    ini_set('session.save_path', "tcp://127.0.0.1:$port?prefix=session:");
    ini_set('session.use_cookies', '0');
    ini_set('session.cache_limiter', '');
    ini_set('redis.session.locking_enabled', '1');
    ini_set('redis.session.lock_retries', '-1');
    ini_set('redis.session.lock_wait_time', '2000');
    session_id('visitor');
    check(session_start(), 'session_start');
    $visits = $_SESSION['visits'] ?? 0;
    usleep(20000);
    $_SESSION['visits'] = $visits + 1;
    check(session_write_close(), 'session_write_close');
    exit(0);
}

$redis = connect();
check($redis->set('k', 'v', ['ex' => 100]), 'set');
check($redis->get('k') === 'v', 'get');
$names = array_map(fn ($number) => "$number:m", range(0, 99));
check($redis->mset(array_combine($names, $names)), 'mset');
check($redis->mget($names) === $names, 'mget');
check($redis->hMSet('h', ['a' => '1', 'b' => '2']), 'hMSet');
check($redis->hGetAll('h') == ['a' => '1', 'b' => '2'], 'hGetAll');
check($redis->multi(Redis::PIPELINE)->get('0:m')->get('1:m')->exec() === ['0:m', '1:m'], 'pipeline');

check($redis->multi()->set('{t}a', 1)->incr('{t}a')->exec() === [true, 2], 'multi');
$redis->watch('{t}w');
$other = connect();
$other->set('{t}w', 'changed');
check($redis->multi()->set('{t}w', 'lost')->exec() === false, 'watch');
check($redis->get('{t}w') === 'changed', 'the transaction is not carried out');
check($redis->eval("return redis.call('incrby', KEYS[1], ARGV[1])", ['n', 5], 1) === 5, 'eval');

$found = [];
$cursor = null;
while (($keys = $redis->scan($cursor, '*:m', 10)) !== false) {
    $found = array_merge($found, $keys);
}
check(array_diff($names, $found) === [], 'scan');

$redis->rPush('list', 'item');
check($redis->blPop(['list'], 5) === ['list', 'item'], 'blPop');

// A subscriber never returns, so it is a process that ends with this one's signal.
$listener = proc_open(
    [PHP_BINARY, '-r', <<<'CODE'
        $redis = new Redis();
        $redis->connect('127.0.0.1', (int) getenv('REDIS_PORT'), 30);
        $redis->setOption(Redis::OPT_READ_TIMEOUT, 30);
        $redis->subscribe(['channel:1', 'channel:2'], function ($redis, $channel, $message) {
            echo "$channel $message\n";
        });
        CODE],
    [1 => ['pipe', 'w']],
    $pipes
);
$deadline = microtime(true) + 30;
foreach (['channel:2', 'channel:1'] as $channel) {
    while ($redis->publish($channel, 'hello') !== 1) {
        check(microtime(true) < $deadline, 'a subscriber');
        usleep(10000);
    }
    check(fgets($pipes[1]) === "$channel hello\n", 'a message');
}
proc_terminate($listener);
proc_close($listener);

$pages = [];
for ($number = 0; $number < 10; $number++) {
    $pages[] = proc_open([PHP_BINARY, __FILE__, 'page'], [], $pipes);
}
foreach ($pages as $page) {
    check(proc_close($page) === 0, 'a page');
}
ini_set('session.save_handler', 'redis');
ini_set('session.save_path', "tcp://127.0.0.1:$port?prefix=session:");
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
session_id('visitor');
session_start();
check($_SESSION['visits'] === 10, "no visit is lost: {$_SESSION['visits']}");
session_destroy();
check(connect()->exists('session:visitor') === 0, 'session_destroy');
