/* Devices that publish heartbeats, on the bare protocol (MQTT 5, QoS 1): whoever loads a hub on the same two cores must
 * take as little of them as can be.
 *
 *     publisher PORT FLEET DEVICES RECORDS RATE ANSWERED TEMPLATE
 *
 * Each device first publishes one record that does not count, so that whoever listens knows it. Then, RATE 0: as fast as
 * the broker takes them, WINDOW of a device on their way at once; else RATE records/s in all, each of the next device. ANSWERED 1: done when every device has heard the `stored` that covers its last record; 0: when the
 * broker has acknowledged all. TEMPLATE is a record with @STREAM@, @SEQ@, @PREV@ and @AT@ (now) where they belong.
 *
 * Prints when it began on the monotonic clock and how long it took, in seconds, then for each record that was answered the
 * seconds from its publication to that.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW = 20, PACKET = 4096, READ = 65536, PATIENCE_S = 600 };

struct bytes {
  unsigned char *at;
  size_t length, room;
};

struct device {
  int socket;
  bool ready, wants_to_write;
  char topic[128], stored[128], stream[33];
  long seq, left, unacknowledged, heard;
  double *sent;
  struct bytes in, out;
};

static struct device *devices;
static long device_count, record_count, acknowledged, answered, ready_count;
static bool wants_answers;
static const char *template;
static double *delays;
static int poller;

static void fail(const char *what) {
  fprintf(stderr, "publisher: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
  exit(1);
}

static double now_s(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void append(struct bytes *to, const void *from, size_t length) {
  if (to->length + length > to->room) {
    to->room = (to->length + length) * 2;
    to->at = realloc(to->at, to->room);
    if (!to->at) fail("memory");
  }
  memcpy(to->at + to->length, from, length);
  to->length += length;
}

static size_t put_text(unsigned char *to, const char *text) {
  size_t length = strlen(text);
  to[0] = (unsigned char)(length >> 8);
  to[1] = (unsigned char)length;
  memcpy(to + 2, text, length);
  return length + 2;
}

static void add_packet(struct device *device, unsigned char head, const unsigned char *body, size_t length) {
  unsigned char front[5] = {head};
  size_t used = 1, rest = length;
  do {
    front[used] = rest & 127;
    rest >>= 7;
    if (rest) front[used] |= 128;
    used++;
  } while (rest);
  append(&device->out, front, used);
  append(&device->out, body, length);
}

static void flush(struct device *device) {
  while (device->out.length) {
    ssize_t sent = send(device->socket, device->out.at, device->out.length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) fail("the broker closed a connection");
    if (sent < 0) break;
    device->out.length -= (size_t)sent;
    memmove(device->out.at, device->out.at + sent, device->out.length);
  }
  bool wants = device->out.length > 0;
  if (wants != device->wants_to_write) {
    struct epoll_event event = {.events = EPOLLIN | (wants ? EPOLLOUT : 0), .data.ptr = device};
    epoll_ctl(poller, EPOLL_CTL_MOD, device->socket, &event);
    device->wants_to_write = wants;
  }
}

static size_t put_record(unsigned char *to, const struct device *device) {
  size_t used = 0;
  for (const char *from = template; *from;) {
    char *place = (char *)to + used;
    if (*from != '@') {
      to[used++] = (unsigned char)*from++;
    } else if (!strncmp(from, "@STREAM@", 8)) {
      used += (size_t)sprintf(place, "%s", device->stream), from += 8;
    } else if (!strncmp(from, "@SEQ@", 5)) {
      used += (size_t)sprintf(place, "%ld", device->seq), from += 5;
    } else if (!strncmp(from, "@PREV@", 6)) {
      used += (size_t)sprintf(place, "%ld", device->seq - 1), from += 6;
    } else if (!strncmp(from, "@AT@", 4)) {
      struct timespec now;
      struct tm day;
      clock_gettime(CLOCK_REALTIME, &now);
      gmtime_r(&now.tv_sec, &day);
      used += strftime(place, 32, "%Y-%m-%dT%H:%M:%S", &day);
      used += (size_t)sprintf((char *)to + used, ".%06ldZ", now.tv_nsec / 1000), from += 4;
    } else {
      fail("an unknown place in the template");
    }
  }
  return used;
}

static void publish(struct device *device) {
  while (device->left && device->unacknowledged < WINDOW) {
    unsigned char body[PACKET];
    device->left--;
    device->unacknowledged++;
    device->seq++;
    size_t used = put_text(body, device->topic);
    uint16_t number = htons((uint16_t)(device->seq % 60000 + 1));
    memcpy(body + used, &number, 2);
    body[used + 2] = 0;
    used += 3;
    used += put_record(body + used, device);
    device->sent[device->seq] = now_s(CLOCK_MONOTONIC);
    add_packet(device, 0x32, body, used);
  }
  flush(device);
}

static void hear(struct device *device, unsigned char head, const unsigned char *body, size_t length) {
  size_t at = 2 + (size_t)(body[0] << 8 | body[1]);
  if (head & 6) {
    add_packet(device, 0x40, body + at, 2);
    at += 2;
  }
  at += 1 + body[at]; /* properties: fewer than 128 bytes of them */
  const unsigned char *place = memmem(body + at, length - at, device->stream, 32);
  if (!place) return;
  char digits[24] = {0};
  size_t rest = (size_t)(body + length - (place + 34));
  memcpy(digits, place + 34, rest < 23 ? rest : 23);
  long stored = strtol(digits, NULL, 10);
  double now = now_s(CLOCK_MONOTONIC);
  for (; device->heard < stored && device->heard < device->seq; device->heard++)
    delays[answered++] = now - device->sent[device->heard + 1];
}

static void handle(struct device *device, unsigned char head, const unsigned char *body, size_t length) {
  unsigned char subscribe[160] = {0, 1, 0};
  switch (head >> 4) {
    case 2: /* CONNACK */
      if (body[1]) fail("the broker refused a connection");
      size_t used = 3 + put_text(subscribe + 3, device->stored);
      subscribe[used++] = 1;
      add_packet(device, 0x82, subscribe, used);
      break;
    case 9: /* SUBACK */
      device->ready = true;
      ready_count++;
      break;
    case 4: /* PUBACK */
      device->unacknowledged--;
      acknowledged++;
      break;
    case 3: /* PUBLISH */
      hear(device, head, body, length);
      break;
    default:
      break;
  }
}

static void take_in(struct device *device) {
  unsigned char chunk[READ];
  ssize_t got = recv(device->socket, chunk, sizeof chunk, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) fail("the broker closed a connection");
  append(&device->in, chunk, (size_t)got);
  size_t done = 0;
  while (device->in.length - done >= 2) {
    size_t length = 0, used = 1, shift = 0;
    bool whole = false;
    while (!whole && done + used < device->in.length) {
      unsigned char digit = device->in.at[done + used++];
      length |= (size_t)(digit & 127) << shift;
      shift += 7;
      whole = digit < 128;
    }
    if (!whole || done + used + length > device->in.length) break;
    handle(device, device->in.at[done], device->in.at + done + used, length);
    done += used + length;
  }
  device->in.length -= done;
  memmove(device->in.at, device->in.at + done, device->in.length);
  publish(device);
}

static void begin(struct device *device, long number, int port, const char *fleet) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  unsigned char random[16], connect_body[96] = {0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 0};
  char name[40];
  int one = 1;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (getrandom(random, sizeof random, 0) != sizeof random) fail("chance");
  for (size_t i = 0; i < sizeof random; i++) sprintf(device->stream + 2 * i, "%02x", random[i]);
  snprintf(name, sizeof name, "publisher-%ld", number);
  snprintf(device->topic, sizeof device->topic, "metrica/v1/%s/devices/%s/records", fleet, name);
  snprintf(device->stored, sizeof device->stored, "metrica/v1/%s/devices/%s/stored", fleet, name);
  device->sent = calloc((size_t)(record_count / device_count + 3), sizeof *device->sent);
  device->socket = socket(AF_INET, SOCK_STREAM, 0);
  if (!device->sent || device->socket < 0) fail("a socket");
  if (connect(device->socket, (struct sockaddr *)&address, sizeof address)) fail("connecting");
  setsockopt(device->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(device->socket, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = device};
  epoll_ctl(poller, EPOLL_CTL_ADD, device->socket, &event);
  add_packet(device, 0x10, connect_body, 11 + put_text(connect_body + 11, name));
  flush(device);
}

static long done(void) { return wants_answers ? answered : acknowledged; }

static void poll_once(int timer) {
  struct epoll_event events[256];
  int count = epoll_wait(poller, events, 256, 1000);
  for (int i = 0; i < count; i++) {
    struct device *device = events[i].data.ptr;
    uint64_t ticks;
    if (!device) {
      if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) fail("the timer");
    } else {
      if (events[i].events & EPOLLOUT) flush(device);
      if (events[i].events & ~(uint32_t)EPOLLOUT) take_in(device);
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 8) fail("PORT FLEET DEVICES RECORDS RATE ANSWERED TEMPLATE");
  int port = atoi(argv[1]), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  device_count = atol(argv[3]);
  record_count = atol(argv[4]) / device_count * device_count;
  double rate = atof(argv[5]);
  wants_answers = atoi(argv[6]);
  template = argv[7];
  if (strlen(template) > PACKET - 512) fail("the template");
  poller = epoll_create1(0);
  devices = calloc((size_t)device_count, sizeof *devices);
  delays = calloc((size_t)(record_count + device_count), sizeof *delays);
  if (!devices || !delays) fail("memory");
  for (long number = 0; number < device_count; number++) {
    begin(&devices[number], number, port, argv[2]);
    while (ready_count <= number) poll_once(timer);
  }
  for (long number = 0; number < device_count; number++) {
    devices[number].left = 1;
    publish(&devices[number]);
  }
  while (done() < device_count) poll_once(timer);
  answered = acknowledged = 0;
  double began = now_s(CLOCK_MONOTONIC);
  if (rate > 0) {
    struct itimerspec tick = {.it_interval.tv_nsec = 250000, .it_value.tv_nsec = 250000};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    timerfd_settime(timer, 0, &tick, NULL);
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
  } else {
    for (long number = 0; number < device_count; number++) {
      devices[number].left = record_count / device_count;
      publish(&devices[number]);
    }
  }
  for (long published = 0; done() < record_count;) {
    double passed = now_s(CLOCK_MONOTONIC) - began;
    for (; rate > 0 && published < record_count && (double)published <= passed * rate; published++) {
      devices[published % device_count].left++;
      publish(&devices[published % device_count]);
    }
    if (passed > PATIENCE_S) errno = ETIMEDOUT, fail("not all was answered");
    poll_once(timer);
  }
  printf("%.6f %.6f\n", began, now_s(CLOCK_MONOTONIC) - began);
  for (long number = 0; number < answered; number++) printf("%.6f\n", delays[number]);
  return 0;
}
