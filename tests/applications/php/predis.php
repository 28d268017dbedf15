<?php
// Predis: commands, pipelines, transactions, scripts, pub/sub, scans, and PHP's sessions.
require 'Predis/autoload.php';
$port = (int) getenv('REDIS_PORT');

function connect(array $options = []): Predis\Client
{
    global $port;
    $address = ['host' => '127.0.0.1', 'port' => $port, 'read_write_timeout' => 30];
    return new Predis\Client($address, $options);
}

function check(bool $condition, string $what): void
{
    if (!$condition) {
        fwrite(STDERR, "not true: $what\n");
        exit(1);
    }
}

$client = connect();
$client->set('k', 'v', 'EX', 100);
check($client->get('k') === 'v', 'get');
$names = array_map(fn ($number) => "$number:m", range(0, 99));
$client->mset(array_combine($names, $names));
check($client->mget($names) === $names, 'mget');
$replies = $client->pipeline(function ($pipe) use ($names) {
    foreach ($names as $name) {
        $pipe->get($name);
    }
});
check($replies === $names, 'pipeline');

[$ok, $two] = $client->transaction()->set('{t}a', 1)->incr('{t}a')->execute();
check((string) $ok === 'OK' && $two === 2, 'transaction');
$tries = 0;
$other = connect();
$client->transaction(['watch' => '{t}w', 'cas' => true, 'retry' => 3], function ($tx) use (&$tries, $other) {
    $value = (int) $tx->get('{t}w');
    if ($tries++ === 0) {
        $other->set('{t}w', 10);
    }
    $tx->multi();
    $tx->set('{t}w', $value + 1);
});
check($tries === 2 && $client->get('{t}w') === '11', 'watch');
check($client->eval("return redis.call('incrby', KEYS[1], ARGV[1])", 1, 'n', 5) === 5, 'eval');
$client->rpush('list', ['item']);
check($client->blpop(['list'], 5) === ['list', 'item'], 'blpop');

$found = iterator_to_array(new Predis\Collection\Iterator\Keyspace($client, '*:m', 10), false);
check(array_diff($names, $found) === [], 'scan');

$listener = connect()->pubSubLoop(['subscribe' => ['channel:1', 'channel:2']]);
$received = [];
foreach ($listener as $message) {
    if ($message->kind === 'subscribe' && $message->payload === 2) {
        check($client->publish('channel:1', 'hello') === 1, 'publish');
        check($client->publish('channel:2', 'end') === 1, 'publish');
    } elseif ($message->kind === 'message') {
        $received[$message->channel] = $message->payload;
        if (count($received) === 2) {
            $listener->unsubscribe('channel:1', 'channel:2');
        }
    }
}
check($received == ['channel:1' => 'hello', 'channel:2' => 'end'], 'messages');

ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
$handler = new Predis\Session\Handler(connect(['prefix' => 'session:']), ['gc_maxlifetime' => 60]);
$handler->register();
for ($visit = 0; $visit < 3; $visit++) {
    session_id('visitor');
    session_start();
    check(($_SESSION['visits'] ?? 0) === $visit, 'session');
    $_SESSION['visits'] = $visit + 1;
    session_write_close();
}
session_start();
session_destroy();
check($client->exists('session:visitor') === 0, 'session_destroy');
