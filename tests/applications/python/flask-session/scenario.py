"""Flask-Session: a session in Redis is made, read, changed and removed."""

from flask import Flask, session
from flask_session import Session
from helpers import DATABASE_1
from redis import Redis

app = Flask(__name__)
app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(DATABASE_1))
Session(app)


@app.post("/<name>")
def store(name):
    session["name"] = name
    session["count"] = session.get("count", 0) + 1
    return ""


@app.get("/")
def show():
    return f"{session.get('name')} {session.get('count')}"


@app.delete("/")
def remove():
    session.clear()
    return ""


clients = [app.test_client() for _ in range(20)]
for number, client in enumerate(clients):
    for _ in range(3):
        client.post(f"/user{number}")
for number, client in enumerate(clients):
    assert client.get("/").text == f"user{number} 3"
    assert client.delete("/").status_code == 200
