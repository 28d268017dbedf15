// gomemcache: storing, reading many, cas, counters, touching.
package main

import (
	"fmt"
	"os"

	"github.com/bradfitz/gomemcache/memcache"
)

func check(condition bool, what ...any) {
	if !condition {
		fmt.Fprintln(os.Stderr, append([]any{"not true:"}, what...)...)
		os.Exit(1)
	}
}

func main() {
	client := memcache.New("127.0.0.1:" + os.Getenv("MEMCACHED_PORT"))
	check(client.Ping() == nil, "ping")
	names := []string{}
	for number := range 100 {
		name := fmt.Sprintf("%d:m", number)
		names = append(names, name)
		err := client.Set(&memcache.Item{Key: name, Value: []byte(name), Flags: 7, Expiration: 100})
		check(err == nil, "set", err)
	}
	items, err := client.GetMulti(names)
	check(err == nil && len(items) == 100, "get of many", err)
	for name, item := range items {
		check(string(item.Value) == name && item.Flags == 7, "value")
	}
	_, err = client.Get("none")
	check(err == memcache.ErrCacheMiss, "a miss", err)
	check(client.Add(&memcache.Item{Key: "1:m"}) == memcache.ErrNotStored, "add")
	item, err := client.Get("1:m")
	check(err == nil, "get", err)
	check(client.Set(&memcache.Item{Key: "1:m", Value: []byte("other")}) == nil, "set")
	item.Value = []byte("lost")
	check(client.CompareAndSwap(item) == memcache.ErrCASConflict, "cas")
	check(client.Set(&memcache.Item{Key: "n", Value: []byte("5")}) == nil, "set")
	value, err := client.Increment("n", 10)
	check(err == nil && value == 15, "increment", err)
	check(client.Touch("n", 100) == nil, "touch")
	check(client.Append(&memcache.Item{Key: "n", Value: []byte("0")}) == nil, "append")
	check(client.Delete("n") == nil, "delete")
	check(client.DeleteAll() == nil, "flush_all")
	items, err = client.GetMulti(names)
	check(err == nil && len(items) == 0, "after flush_all", err)
}
