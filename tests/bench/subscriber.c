/* The least that a client in C does for a record: libmosquitto, QoS 1, MQTT 5, nothing stored.
 *
 *     subscriber PORT TOPIC COUNT      prints "ready" when it is subscribed, "heard" after COUNT messages, and goes on
 */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdio.h>
#include <stdlib.h>

static long left;
static const char *topic;

static void connected(struct mosquitto *client, void *nothing, int code) {
  (void)nothing;
  if (code) exit(1);
  mosquitto_subscribe(client, NULL, topic, 1);
}

static void subscribed(struct mosquitto *client, void *nothing, int id, int count, const int *granted) {
  (void)client, (void)nothing, (void)id, (void)count, (void)granted;
  puts("ready");
  fflush(stdout);
}

static void heard(struct mosquitto *client, void *nothing, const struct mosquitto_message *message) {
  (void)client, (void)nothing, (void)message;
  if (--left == 0) {
    puts("heard");
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  if (argc != 4) return 1;
  topic = argv[2];
  left = atol(argv[3]);
  mosquitto_lib_init();
  struct mosquitto *client = mosquitto_new("subscriber", true, NULL);
  mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
  mosquitto_int_option(client, MOSQ_OPT_RECEIVE_MAXIMUM, 2000);
  mosquitto_connect_callback_set(client, connected);
  mosquitto_subscribe_callback_set(client, subscribed);
  mosquitto_message_callback_set(client, heard);
  if (mosquitto_connect(client, "127.0.0.1", atoi(argv[1]), 60)) return 1;
  return mosquitto_loop_forever(client, -1, 1);
}
