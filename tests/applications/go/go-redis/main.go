// go-redis in its defaults: commands, pipelines, transactions, scripts, pub/sub, streams, scans.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/redis/go-redis/v9"
)

func check(condition bool, what ...any) {
	if !condition {
		fmt.Fprintln(os.Stderr, append([]any{"not true:"}, what...)...)
		os.Exit(1)
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	options := redis.Options{Addr: "127.0.0.1:" + os.Getenv("REDIS_PORT")}
	client := redis.NewClient(&options)
	defer client.Close()

	check(client.Ping(ctx).Val() == "PONG", "ping")
	check(client.Set(ctx, "k", "v", time.Minute).Err() == nil, "set")
	check(client.Get(ctx, "k").Val() == "v", "get")
	check(client.Get(ctx, "none").Err() == redis.Nil, "get of nothing")
	names, pairs, want := []string{}, []any{}, []any{}
	for number := range 100 {
		name := fmt.Sprintf("%d:m", number)
		names, want = append(names, name), append(want, name)
		pairs = append(pairs, name, name)
	}
	check(client.MSet(ctx, pairs...).Err() == nil, "mset")
	check(reflect.DeepEqual(client.MGet(ctx, names...).Val(), want), "mget")
	check(client.HSet(ctx, "h", "a", 1, "b", 2).Val() == 2, "hset")
	check(len(client.HGetAll(ctx, "h").Val()) == 2, "hgetall")

	got, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, name := range names {
			pipe.Get(ctx, name)
		}
		return nil
	})
	check(err == nil && len(got) == 100 && got[7].(*redis.StringCmd).Val() == "7:m", "pipeline", err)
	got, err = client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, "{t}a", 1, 0)
		pipe.Incr(ctx, "{t}a")
		return nil
	})
	check(err == nil && got[1].(*redis.IntCmd).Val() == 2, "transaction", err)
	err = client.Watch(ctx, func(tx *redis.Tx) error {
		client.Set(ctx, "{t}w", "changed", 0)
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			return pipe.Set(ctx, "{t}w", "lost", 0).Err()
		})
		return err
	}, "{t}w")
	check(errors.Is(err, redis.TxFailedErr), "watch", err)
	check(client.Get(ctx, "{t}w").Val() == "changed", "the transaction is not carried out")

	add := redis.NewScript("return redis.call('incrby', KEYS[1], ARGV[1])")
	for _, name := range names {
		sum, err := add.Run(ctx, client, []string{"s" + name}, 5).Int()
		check(err == nil && sum == 5, "script", err)
	}

	listener := client.Subscribe(ctx, names[:10]...)
	check(listener.PSubscribe(ctx, "pattern:*") == nil, "psubscribe")
	for range 11 {
		_, err := listener.Receive(ctx)
		check(err == nil, "subscriptions", err)
	}
	for _, channel := range append([]string{"pattern:x"}, names[:10]...) {
		check(client.Publish(ctx, channel, "hello").Val() == 1, "publish")
	}
	heard := map[string]bool{}
	for range 11 {
		message, err := listener.ReceiveMessage(ctx)
		check(err == nil && message.Payload == "hello", "message", err)
		heard[message.Channel] = true
	}
	check(len(heard) == 11, "messages", heard)
	check(listener.Close() == nil, "close")

	popped := make(chan []string)
	go func() { popped <- client.BLPop(ctx, 30*time.Second, "list").Val() }()
	check(client.RPush(ctx, "list", "item").Err() == nil, "rpush")
	check(reflect.DeepEqual(<-popped, []string{"list", "item"}), "blpop")
	check(client.XGroupCreateMkStream(ctx, "stream", "group", "$").Err() == nil, "xgroup")
	read := make(chan error)
	go func() {
		arguments := redis.XReadGroupArgs{Group: "group", Consumer: "me", Streams: []string{"stream", ">"}, Block: 30 * time.Second}
		read <- client.XReadGroup(ctx, &arguments).Err()
	}()
	check(client.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []any{"f", "v"}}).Err() == nil, "xadd")
	check(<-read == nil, "xreadgroup")

	found := map[string]bool{}
	for keys := client.Scan(ctx, 0, "*:m", 10).Iterator(); keys.Next(ctx); {
		found[keys.Val()] = true
	}
	check(len(found) == 200, "scan", len(found))

	options.DB = 1
	second := redis.NewClient(&options)
	defer second.Close()
	check(second.Get(ctx, "k").Err() == redis.Nil, "another database")
	check(second.Set(ctx, "k", "other", 0).Err() == nil, "another database")
	check(client.Get(ctx, "k").Val() == "v", "database 0")
}
