// redis-rs: commands, pipelines, transactions, scripts, pub/sub, blocking commands, scans.
use redis::{Client, Commands, Connection, RedisResult, Script};
use std::collections::HashSet;
use std::time::Duration;

fn names() -> Vec<String> {
    (0..100).map(|number| format!("{number}:m")).collect()
}

fn run(url: &str) -> RedisResult<()> {
    let client = Client::open(url)?;
    let connect = || -> RedisResult<Connection> {
        let connection = client.get_connection()?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(connection)
    };
    let mut one = connect()?;
    let mut other = connect()?;

    let _: () = one.set_ex("k", "v", 100)?;
    assert_eq!(one.get::<_, String>("k")?, "v");
    assert_eq!(one.get::<_, Option<String>>("none")?, None);
    let pairs: Vec<_> = names().into_iter().map(|name| (name.clone(), name)).collect();
    let _: () = one.mset(&pairs)?;
    assert_eq!(one.mget::<_, Vec<String>>(names())?, names());

    let mut pipeline = redis::pipe();
    for name in names() {
        pipeline.get(name);
    }
    assert_eq!(pipeline.query::<Vec<String>>(&mut one)?, names());
    let replies: (String, i64) = redis::pipe()
        .atomic()
        .set("{t}a", 1)
        .incr("{t}a", 1)
        .query(&mut one)?;
    assert_eq!(replies, ("OK".to_string(), 2));
    let mut tries = 0;
    let (sum,): (i64,) = redis::transaction(&mut one, &["{t}w"], |connection, pipeline| {
        let value: Option<i64> = connection.get("{t}w")?;
        tries += 1;
        if tries == 1 {
            let _: () = other.set("{t}w", 10)?;
        }
        pipeline.set("{t}w", value.unwrap_or(0) + 1).ignore().incr("{t}w", 1).query(connection)
    })?;
    assert_eq!((tries, sum), (2, 12));

    let add = Script::new("return redis.call('incrby', KEYS[1], ARGV[1])");
    for name in names() {
        let sum: i64 = add.key(format!("s{name}")).arg(5).invoke(&mut one)?;
        assert_eq!(sum, 5);
    }

    let mut connection = connect()?;
    let mut listener = connection.as_pubsub();
    listener.subscribe(&["one", "two"])?;
    listener.psubscribe("pattern:*")?;
    for channel in ["one", "two", "pattern:x"] {
        assert_eq!(one.publish::<_, _, i64>(channel, "hello")?, 1);
        let message = listener.get_message()?;
        assert_eq!(message.get_channel_name(), channel);
        assert_eq!(message.get_payload::<String>()?, "hello");
    }
    listener.unsubscribe(&["one", "two"])?;
    listener.punsubscribe("pattern:*")?;

    let popper = std::thread::spawn(move || -> RedisResult<Vec<String>> {
        other.blpop("list", 30.0)
    });
    let _: () = one.rpush("list", "item")?;
    assert_eq!(popper.join().unwrap()?, ["list", "item"]);

    let found: HashSet<String> = one.scan_match::<_, String>("*:m")?
        .map(|key| key.unwrap())
        .collect();
    assert_eq!(found.len(), 200);
    Ok(())
}

fn main() {
    let port = std::env::var("REDIS_PORT").unwrap();
    for options in ["", "?protocol=resp3"] {
        let url = format!("redis://127.0.0.1:{port}/{options}");
        let mut connection = Client::open(&*url).unwrap().get_connection().unwrap();
        redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
        run(&url).unwrap();
    }
}
