// redigo: a pool, pipelines, transactions, scripts, pub/sub, blocking commands, scans.
package main

import (
	"fmt"
	"os"
	"reflect"

	"github.com/gomodule/redigo/redis"
)

func check(condition bool, what ...any) {
	if !condition {
		fmt.Fprintln(os.Stderr, append([]any{"not true:"}, what...)...)
		os.Exit(1)
	}
}

func main() {
	pool := redis.Pool{Dial: func() (redis.Conn, error) {
		return redis.Dial("tcp", "127.0.0.1:"+os.Getenv("REDIS_PORT"))
	}}
	defer pool.Close()
	client, other := pool.Get(), pool.Get()
	defer client.Close()
	defer other.Close()

	ok, err := redis.String(client.Do("SET", "k", "v", "EX", 100))
	check(err == nil && ok == "OK", "set", err)
	names, pairs := []string{}, redis.Args{}
	for number := range 100 {
		names = append(names, fmt.Sprintf("%d:m", number))
		pairs = pairs.Add(names[number], names[number])
	}
	_, err = client.Do("MSET", pairs...)
	check(err == nil, "mset", err)
	values, err := redis.Strings(client.Do("MGET", redis.Args{}.AddFlat(names)...))
	check(err == nil && reflect.DeepEqual(values, names), "mget", err)
	for _, name := range names {
		check(client.Send("GET", name) == nil, "send")
	}
	values, err = redis.Strings(client.Do(""))
	check(err == nil && reflect.DeepEqual(values, names), "pipeline", err)

	client.Send("MULTI")
	client.Send("SET", "{t}a", 1)
	client.Send("INCR", "{t}a")
	replies, err := redis.Values(client.Do("EXEC"))
	check(err == nil && len(replies) == 2 && replies[1] == int64(2), "transaction", err)
	_, err = client.Do("WATCH", "{t}w")
	check(err == nil, "watch", err)
	other.Do("SET", "{t}w", "changed")
	client.Send("MULTI")
	client.Send("SET", "{t}w", "lost")
	_, err = redis.Values(client.Do("EXEC"))
	check(err == redis.ErrNil, "a key that was watched", err)

	add := redis.NewScript(1, "return redis.call('incrby', KEYS[1], ARGV[1])")
	for _, name := range names {
		sum, err := redis.Int(add.Do(client, "s"+name, 5))
		check(err == nil && sum == 5, "script", err)
	}

	listener := redis.PubSubConn{Conn: pool.Get()}
	check(listener.Subscribe("one", "two") == nil, "subscribe")
	check(listener.PSubscribe("pattern:*") == nil, "psubscribe")
	for range 3 {
		_, subscribed := listener.Receive().(redis.Subscription)
		check(subscribed, "a subscription")
	}
	for _, channel := range []string{"one", "two", "pattern:x"} {
		count, err := redis.Int(client.Do("PUBLISH", channel, "hello"))
		check(err == nil && count == 1, "publish", err)
		message, is := listener.Receive().(redis.Message)
		check(is && message.Channel == channel && string(message.Data) == "hello", "message")
	}
	check(listener.Unsubscribe() == nil && listener.PUnsubscribe() == nil, "unsubscribe")
	check(listener.Close() == nil, "close")

	check(other.Send("BLPOP", "list", 30) == nil && other.Flush() == nil, "blpop")
	_, err = client.Do("RPUSH", "list", "item")
	check(err == nil, "rpush", err)
	values, err = redis.Strings(other.Receive())
	check(err == nil && reflect.DeepEqual(values, []string{"list", "item"}), "blpop", err)

	found, cursor := map[string]bool{}, "0"
	for {
		page, err := redis.Values(client.Do("SCAN", cursor, "MATCH", "*:m", "COUNT", 10))
		check(err == nil, "scan", err)
		keys, _ := redis.Strings(page[1], nil)
		for _, key := range keys {
			found[key] = true
		}
		if cursor, _ = redis.String(page[0], nil); cursor == "0" {
			break
		}
	}
	check(len(found) == 200, "scan", len(found))
}
