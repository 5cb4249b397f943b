"""A paho client that reads what to do from standard input and tells what happened, one JSON object a line."""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

speaking = threading.Lock()
client = None


def tell(on, **members):
    with speaking:
        print(json.dumps({"on": on, **members}), flush=True)


def number(reason):
    return getattr(reason, "value", reason)


def told_message(client, userdata, message):
    properties = getattr(message, "properties", None)
    tell(
        "message",
        topic=message.topic,
        payload=message.payload.decode("utf-8", "replace"),
        qos=message.qos,
        retain=bool(message.retain),
        dup=bool(message.dup),
        user=getattr(properties, "UserProperty", []) if properties else [],
        content_type=getattr(properties, "ContentType", None) if properties else None,
        identifiers=getattr(properties, "SubscriptionIdentifier", []) if properties else [],
    )


def connect(order):
    global client
    version = order.get("version", 5)
    arguments = {"client_id": order.get("id", ""), "protocol": version, "transport": order.get("transport", "tcp")}
    if version != 5:
        arguments["clean_session"] = order.get("clean", True)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, **arguments)
    client.on_connect = lambda c, u, flags, reason, p: tell(
        "connect", reason=number(reason), session_present=bool(flags.session_present)
    )
    client.on_message = told_message
    client.on_publish = lambda c, u, mid, reason, p: tell("publish", reason=number(reason))
    client.on_subscribe = lambda c, u, mid, reasons, p: tell("subscribe", reasons=[number(r) for r in reasons])
    client.on_disconnect = lambda c, u, flags, reason, p: tell(
        "disconnect",
        reason=number(reason),
        by_server=bool(flags.is_disconnect_packet_from_server),
        user=getattr(p, "UserProperty", []),
        server_reference=getattr(p, "ServerReference", None),
    )
    if "ca" in order:
        client.tls_set(ca_certs=order["ca"], certfile=order.get("certificate"), keyfile=order.get("key"))
    if "password" in order:
        client.username_pw_set(order.get("user", "token"), order["password"])
    if "will" in order:
        will = order["will"]
        client.will_set(will["topic"], will["payload"], will.get("qos", 0), will.get("retain", False))
    if order.get("transport") == "websockets":
        client.ws_set_options(path="/mqtt")
    # A journey says itself when to connect again.
    client.reconnect_delay_set(3600, 3600)
    extra = {}
    if version == 5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = order.get("expiry_s", 0)
        extra = {"clean_start": order.get("clean", True), "properties": properties}
    try:
        client.connect(order["host"], order["port"], keepalive=order.get("keep_alive_s", 60), **extra)
    except OSError as error:
        tell("failure", text=str(error))
        return
    client.loop_start()


def subscribe(order):
    properties = None
    if "identifier" in order:
        properties = Properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = order["identifier"]
    client.subscribe(order["filter"], order.get("qos", 0), properties=properties)


def publish(order):
    properties = None
    if "user" in order or "content_type" in order:
        properties = Properties(PacketTypes.PUBLISH)
        if "user" in order:
            properties.UserProperty = [tuple(pair) for pair in order["user"]]
        if "content_type" in order:
            properties.ContentType = order["content_type"]
    payload = bytes.fromhex(order["hex"]) if "hex" in order else order.get("payload", "")
    client.publish(order["topic"], payload, order.get("qos", 0), order.get("retain", False), properties=properties)


def disconnect(order):
    client.disconnect()


ORDERS = {"connect": connect, "subscribe": subscribe, "publish": publish, "disconnect": disconnect}

for line in sys.stdin:
    order = json.loads(line)
    ORDERS[order["do"]](order)
