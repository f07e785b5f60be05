/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * capi.c - the C door from outside: every function with every kind of wrong argument, from every
 * wrong place, and what members see of each other's ends.
 *
 *   cc -std=c11 capi.c $(pkg-config --cflags --libs squall) -pthread -o capi && ./capi [PART...]
 *
 * One line per part; exits 1 if a check failed. It is run plain, under valgrind and with the
 * address sanitizer (ci/capi.rs), so it must also end with nothing leaked.
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <squall.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- checking -------------------------------------------------------------------------------- */

static _Atomic int failures;
static char name[64]; /* of the groups of the part that runs */

#define CHECK(condition) check(__LINE__, #condition, (condition))
#define IS(call, expected) check_status(__LINE__, #call, (int64_t)(call), (expected))
/* The same, and the text of the last error has these words. */
#define SAYS(call, expected, ...) \
  (IS(call, expected), check_words(__LINE__, #call, (const char *[]){__VA_ARGS__, NULL}))

static void check(int line, const char *condition, int holds)
{
  if (holds) return;
  failures++;
  printf("  FAILED at line %d: %s\n", line, condition);
}

static void check_status(int line, const char *call, int64_t got, int expected)
{
  if (got == expected) return;
  failures++;
  printf("  FAILED at line %d: %s is %lld (%s), not %d (%s)\n", line, call, (long long)got,
         squall_status_text((int)got), expected, squall_status_text(expected));
}

static void check_words(int line, const char *call, const char **words)
{
  char text[1024];
  CHECK(squall_last_error(text, sizeof text) == strlen(text) + 1);
  for (; *words; words++) {
    if (strstr(text, *words)) continue;
    failures++;
    printf("  FAILED at line %d: %s says \"%s\" without \"%s\"\n", line, call, text, *words);
  }
}

static uint64_t nanoseconds(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static double now(void)
{
  return (double)nanoseconds() * 1e-9;
}

/* Nothing here takes that long, also under valgrind beside a busy machine. */
#define PATIENCE 240.0

/* ---- members --------------------------------------------------------------------------------- */

/* What a member has heard; the user pointer of the callbacks. */
typedef struct ear {
  uint64_t heard, bytes, batches;
  uint32_t last_len;
  unsigned char last[64];
  uint64_t last_number, since, timed; /* whose time is between `since` and now */
  int aligned, stops, stopped;
  int32_t stopped_rank;
  char why[128];
  void (*inside)(struct ear *ear, squall_group_t group); /* called in each callback */
  squall_group_t group;                                  /* as the callbacks have got it */
  int64_t codes[8];
} ear_t;

static void on_deliver(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *messages, uint32_t count)
{
  ear_t *ear = user;
  (void)subgroup;
  ear->group = group;
  ear->batches++;
  CHECK(count >= 1 && count <= SQUALL_BATCH_MAX);
  for (uint32_t i = 0; i < count; i++) {
    const squall_message_t *message = &messages[i];
    ear->aligned += message->bytes != NULL && (uintptr_t)message->bytes % 16 == 0;
    ear->last_len = message->len;
    ear->last_number = message->number;
    ear->timed += message->time_ns >= ear->since && message->time_ns <= nanoseconds();
    memcpy(ear->last, message->bytes, message->len < 64 ? message->len : 64);
    ear->bytes += message->len;
    ear->heard++;
  }
  if (ear->inside) ear->inside(ear, group);
}

static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  on_deliver(user, group, subgroup, message, 1);
}

static void on_stopped(void *user, squall_group_t group, int status, int32_t rank, const char *text)
{
  ear_t *ear = user;
  ear->stops++;
  ear->stopped = status;
  ear->stopped_rank = rank;
  snprintf(ear->why, sizeof ear->why, "%s", text);
  if (ear->inside) ear->inside(ear, group);
}

static squall_group_attr_t attr_of(uint32_t rank, uint32_t members)
{
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = name;
  attr.rank = rank;
  attr.members = members;
  attr.open_timeout_ms = (uint32_t)(PATIENCE * 1000);
  return attr;
}

static squall_callbacks_t callbacks_of(ear_t *ear)
{
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.user = ear;
  callbacks.deliver = on_deliver;
  callbacks.stopped = on_stopped;
  return callbacks;
}

static squall_subgroup_attr_t subgroup_of(uint32_t message_bytes_max)
{
  squall_subgroup_attr_t subgroup;
  squall_subgroup_attr_init(&subgroup, sizeof subgroup);
  subgroup.message_bytes_max = message_bytes_max;
  return subgroup;
}

static int open_with(squall_group_attr_t attr, ear_t *ear, squall_group_t *group)
{
  squall_callbacks_t callbacks = callbacks_of(ear);
  return squall_group_open(&attr, &callbacks, group);
}

/* Opens or ends the program: for parts that are about something else. */
static squall_group_t opened(squall_group_attr_t attr, ear_t *ear)
{
  squall_group_t group = 0;
  char text[512];
  int status = open_with(attr, ear, &group);
  if (status == SQUALL_OK) return group;
  squall_last_error(text, sizeof text);
  printf("  FAILED: cannot open %s: %s: %s\n", attr.name, squall_status_text(status), text);
  exit(1);
}

static int turn(squall_group_t group)
{
  int status = squall_poll(group, UINT32_MAX);
  return status == 0 ? squall_wait(group, 20) : status;
}

/* Turns the group until the condition holds, an end comes, or patience does; the last status. */
#define UNTIL(group, condition) \
  do { \
    double late_ = now() + PATIENCE; \
    int status_ = 0; \
    while (!(condition) && status_ >= 0 && now() < late_) status_ = turn(group); \
    if (!(condition)) IS(status_, 0), CHECK(condition); \
  } while (0)

/* ---- processes and threads ------------------------------------------------------------------- */

/* A member in a process of its own; it may be told to go on, one byte at a time, and tells. */
typedef struct {
  pid_t pid;
  int in, out;
} child_t;

static child_t start(void (*body)(uint32_t rank, int in, int out), uint32_t rank)
{
  int to[2], from[2];
  child_t child = {-1, -1, -1};
  fflush(stdout);
  if (pipe(to) || pipe(from) || (child.pid = fork()) < 0) perror("capi: fork"), exit(1);
  if (child.pid == 0) {
    close(to[1]), close(from[0]);
    failures = 0;
    body(rank, to[0], from[1]);
    exit(failures != 0);
  }
  close(to[0]), close(from[1]);
  child.in = from[0], child.out = to[1];
  return child;
}

static void tell(int out)
{
  CHECK(write(out, "!", 1) == 1);
}

static void hear(int in)
{
  struct pollfd until = {in, POLLIN, 0};
  char byte;
  CHECK(poll(&until, 1, (int)(PATIENCE * 1000)) == 1 && read(in, &byte, 1) == 1);
}

/* Whether a byte is there; that nobody is left to write one (`reap`) is none. */
static int told(int in)
{
  struct pollfd until = {in, POLLIN, 0};
  return poll(&until, 1, 0) == 1 && until.revents & POLLIN;
}

static int reap(child_t child)
{
  int status = -1;
  close(child.in), close(child.out);
  CHECK(waitpid(child.pid, &status, 0) == child.pid);
  return status;
}

static int descriptors(void)
{
  int count = 0;
  DIR *all = opendir("/proc/self/fd");
  while (all && readdir(all)) count++;
  if (all) closedir(all);
  return count;
}

/* ---- parts: constants ------------------------------------------------------------------------ */

static void part_versions(void)
{
  char text[32];
  snprintf(text, sizeof text, "%d.%d.%d", SQUALL_VERSION_MAJOR, SQUALL_VERSION_MINOR,
           SQUALL_VERSION_PATCH);
  CHECK(squall_version() == SQUALL_VERSION);
  CHECK(strcmp(squall_version_text(), text) == 0);
  CHECK(SQUALL_LANE(3, 2) == 0x20003 && SQUALL_LANE(3, 0) == 3);
}

static const int statuses[] = {
  SQUALL_OK, SQUALL_AGAIN, SQUALL_TIMED_OUT, SQUALL_INADEQUATE, SQUALL_INVALID, SQUALL_TOO_LONG, SQUALL_NOT_SENDER,
  SQUALL_WRONG_SIZE, SQUALL_NO_HANDLE, SQUALL_CLOSED, SQUALL_REENTRANT, SQUALL_OWN_THREAD,
  SQUALL_NOT_RESERVED, SQUALL_GONE, SQUALL_NO_REGION, SQUALL_DENIED, SQUALL_NOT_DIRECT,
  SQUALL_NO_MEMORY, SQUALL_LIMIT, SQUALL_IN_USE, SQUALL_FOREIGN_OWNER,
  SQUALL_MISMATCH, SQUALL_WIRE_VERSION, SQUALL_NOT_COMPLETE, SQUALL_SYSTEM, SQUALL_PEER_LOST,
  SQUALL_PEER_FAULT, SQUALL_PEER_LEFT, SQUALL_FAILED, SQUALL_EXPELLED, SQUALL_PARTITIONED,
  SQUALL_LEFT, SQUALL_EXHAUSTED, SQUALL_PANIC,
};
/* Frozen: programs have been compiled with these numbers. */
static const int frozen[] = {0,   -1,  -2,  -3,  -10, -11, -12, -13, -14, -15, -16, -17, -18, -19,
                             -20, -21, -22, -30,
                             -31, -32, -33, -34, -35, -36, -37, -50, -51, -52, -53, -54,
                             -55, -56, -57, -90};
enum { STATUSES = sizeof statuses / sizeof *statuses };

static void part_statuses(void)
{
  const char *unknown = squall_status_text(-4);
  const int others[] = {1, 2, -4, -9, -23, -29, -38, -58, -89, -91, -1000, INT_MIN, INT_MAX};
  CHECK(sizeof frozen == sizeof statuses);
  for (int i = 0; i < STATUSES; i++) {
    const char *text = squall_status_text(statuses[i]);
    CHECK(statuses[i] == frozen[i]);
    CHECK(text && *text && strcmp(text, unknown) != 0);
    CHECK(text == squall_status_text(statuses[i])); /* static */
    for (int k = 0; k < i; k++) CHECK(strcmp(text, squall_status_text(statuses[k])) != 0);
  }
  CHECK(unknown && *unknown);
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    CHECK(strcmp(squall_status_text(others[i]), unknown) == 0);
}

/* ---- parts: the last error ------------------------------------------------------------------- */

static void *fresh_thread(void *unused)
{
  char text[8] = "garbage";
  (void)unused;
  CHECK(squall_last_error(NULL, 0) == 1);
  CHECK(squall_last_error(text, 0) == 1 && strcmp(text, "garbage") == 0);
  CHECK(squall_last_error(text, 1) == 1 && text[0] == 0);
  return NULL;
}

static pthread_key_t late_key;

/* Runs when the thread's own storage, the library's included, may be gone. */
static void at_thread_end(void *unused)
{
  char text[64] = "garbage";
  squall_group_t group;
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(9, 3);
  (void)unused;
  IS(squall_poll(0, 1), SQUALL_NO_HANDLE);
  IS(open_with(attr, &ear, &group), SQUALL_INVALID);
  CHECK(squall_last_error(text, sizeof text) >= 1);
  attr = attr_of(0, 1);
  IS(open_with(attr, &ear, &group), SQUALL_OK);
  IS(squall_send(group, 0, "late", 4), 0);
  UNTIL(group, ear.heard == 1);
  IS(squall_group_close(group), SQUALL_OK);
}

static void *ending_thread(void *unused)
{
  pthread_setspecific(late_key, &late_key);
  squall_group_open(NULL, NULL, NULL); /* so that there is a last error */
  return unused;
}

static void in_thread(void *(*body)(void *))
{
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
}

static void part_last_error(void)
{
  char whole[512], part[512];
  squall_group_t group = 77;
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  in_thread(fresh_thread);
  attr.name = "gr\303\274n/gr\303\274n"; /* two letters of two bytes */
  SAYS(open_with(attr, &ear, &group), SQUALL_INVALID, "gr\303\274n/gr\303\274n", "letters");
  CHECK(group == 77);
  size_t need = squall_last_error(whole, sizeof whole);
  CHECK(need == strlen(whole) + 1);
  CHECK(squall_last_error(NULL, 0) == need && squall_last_error(NULL, 5) == need);
  for (size_t len = 1; len <= need + 3; len++) {
    memset(part, 'x', sizeof part);
    CHECK(squall_last_error(part, len) == need);
    size_t got = strlen(part);
    CHECK(got < len && memcmp(part, whole, got) == 0 && part[len] == 'x');
    CHECK(got == need - 1 || got + 2 >= len);              /* no shorter than it must be */
    CHECK((whole[got] & 0xc0) != 0x80);                    /* no letter is cut in two */
  }
  attr.name = name;
  group = opened(attr, &ear); /* neither what succeeds nor SQUALL_AGAIN says anything */
  while (squall_send(group, 0, "x", 1) != SQUALL_AGAIN) {}
  void *slot;
  IS(squall_reserve(group, 0, 1, &slot), SQUALL_AGAIN);
  IS(squall_arm(group), SQUALL_AGAIN);
  IS(squall_group_close(group), SQUALL_OK);
  CHECK(squall_last_error(part, sizeof part) == need && strcmp(part, whole) == 0);
  SAYS(squall_poll(0, 1), SQUALL_NO_HANDLE, "handle 0");
  SAYS(squall_poll(group, 1), SQUALL_CLOSED, "closed");
  in_thread(fresh_thread); /* each thread has its own */
  CHECK(pthread_key_create(&late_key, at_thread_end) == 0);
  in_thread(ending_thread);
  pthread_key_delete(late_key);
}

/* ---- parts: handles -------------------------------------------------------------------------- */

/* Every function that takes a handle, with good and with bad other arguments. */
static void all_answer(squall_group_t group, int expected)
{
  void *slot = &slot;
  squall_stats_t stats = {0};
  squall_piece_t piece = {"x", 1};
  stats.size = sizeof stats;
  char handle[24];
  const char *what = expected == SQUALL_CLOSED ? "closed" : "handle";
  snprintf(handle, sizeof handle, group ? "%#llx" : "%llu", (unsigned long long)group);
#define ANSWERS(call) SAYS(call, expected, handle, what)
  ANSWERS(squall_group_rank(group));
  ANSWERS(squall_group_members(group));
  ANSWERS(squall_send(group, 0, "x", 1));
  ANSWERS(squall_send(group, 99, NULL, 7));
  ANSWERS(squall_send(group, SQUALL_LANE(0, 99), "x", UINT32_MAX));
  ANSWERS(squall_sendv(group, 0, &piece, 1));
  ANSWERS(squall_sendv(group, 99, NULL, UINT32_MAX));
  ANSWERS(squall_send_many(group, 0, &piece, 1));
  ANSWERS(squall_send_many(group, 99, NULL, UINT32_MAX));
  ANSWERS(squall_reserve(group, 0, 1, &slot));
  ANSWERS(squall_reserve(group, 99, 1, NULL));
  CHECK(slot == &slot);
  ANSWERS(squall_publish(group, 0, 1));
  ANSWERS(squall_abort(group, 0));
  ANSWERS(squall_poll(group, 1));
  ANSWERS(squall_poll(group, 0));
  ANSWERS(squall_wait(group, 0));
  ANSWERS(squall_wait(group, -1));
  ANSWERS(squall_fd(group));
  ANSWERS(squall_arm(group));
  ANSWERS(squall_stats_get(group, 0, &stats));
  ANSWERS(squall_stats_get(group, 99, NULL));
  squall_memory_t memory = 0;
  ANSWERS(squall_memory_register(group, NULL, &memory));
  ANSWERS(squall_memory_deregister(group, 1));
  ANSWERS(squall_memory_ticket(group, 1, NULL));
  ANSWERS(squall_memory_info(group, 1, NULL));
  ANSWERS(squall_memory_put(group, NULL));
  ANSWERS(squall_memory_get(group, NULL));
  ANSWERS(squall_memory_poll(group, NULL, 1));
  ANSWERS(squall_memory_wait(group, -1));
  CHECK(memory == 0);
#undef ANSWERS
  CHECK(stats.turns == 0 && stats.size == sizeof stats);
}

static void part_no_handle(void)
{
  const squall_group_t bogus[] = {
    0, 1, 2, 255, 256, 0xffff, 0x1ffff, 0x10100, 0x20000, 0x40000, 0x7fff0000, 0x123456789abcdef0,
    UINT64_MAX, UINT64_MAX - 1, (uint64_t)1 << 63, UINT64_MAX << 16, (UINT64_MAX << 16) + 255,
  };
  for (size_t i = 0; i < sizeof bogus / sizeof *bogus; i++) all_answer(bogus[i], SQUALL_NO_HANDLE);
  for (size_t i = 1; i < sizeof bogus / sizeof *bogus; i++)
    IS(squall_group_close(bogus[i]), SQUALL_NO_HANDLE);
  IS(squall_group_close(0), SQUALL_OK);
  squall_group_attr_init(NULL, sizeof(squall_group_attr_t));
  squall_subgroup_attr_init(NULL, 0);
  squall_callbacks_init(NULL, 17);
  squall_log_set(NULL, NULL);
}

static void part_closed(void)
{
  ear_t ear = {0};
  squall_group_t first = opened(attr_of(0, 1), &ear), again;
  CHECK(first != 0);
  IS(squall_group_rank(first), 0);
  IS(squall_group_members(first), 1);
  IS(squall_group_close(first), SQUALL_OK);
  IS(squall_group_close(first), SQUALL_CLOSED);
  all_answer(first, SQUALL_CLOSED);
  for (int i = 0; i < 3; i++) { /* the place is used again, the handle is not */
    again = opened(attr_of(0, 1), &ear);
    CHECK(again != first);
    all_answer(first, SQUALL_CLOSED);
    IS(squall_group_close(first), SQUALL_CLOSED);
    IS(squall_send(again, 0, "x", 1), 0);
    IS(squall_group_close(again), SQUALL_OK);
    all_answer(again, SQUALL_CLOSED);
  }
  all_answer(again + ((squall_group_t)2 << 16), SQUALL_NO_HANDLE); /* not yet */
}

/* ---- parts: opening -------------------------------------------------------------------------- */

static void part_arguments(void)
{
  static const char long_name[] = "0123456789012345678901234567890123456789"
                                  "0123456789012345678901234"; /* 65 */
  static const uint16_t twice[] = {0, 0}, stranger[] = {7}, none[] = {0};
  ear_t ear = {0};
  squall_group_t group = 77;
  squall_group_attr_t good = attr_of(0, 1), attr;
  squall_callbacks_t callbacks = callbacks_of(&ear), empty = callbacks;
  squall_subgroup_attr_t subgroups[33], subgroup;
  squall_transfer_attr_t transfer;
  int before;

  SAYS(squall_group_open(NULL, &callbacks, &group), SQUALL_INVALID, "attr", "NULL");
  SAYS(squall_group_open(&good, NULL, &group), SQUALL_INVALID, "callbacks", "NULL");
  SAYS(squall_group_open(&good, &callbacks, NULL), SQUALL_INVALID, "group", "NULL");
  SAYS(squall_group_open(NULL, NULL, NULL), SQUALL_INVALID, "NULL");
  empty.deliver = NULL;
  SAYS(squall_group_open(&good, &empty, &group), SQUALL_INVALID, "deliver", "message");
  empty = callbacks;
  empty.reserved = 1;
  SAYS(squall_group_open(&good, &empty, &group), SQUALL_INVALID, "callbacks.reserved is 1", "_init");
  before = descriptors();
#define REFUSED(change, ...) \
  do { \
    attr = good; \
    for (int i_ = 0; i_ < 33; i_++) subgroups[i_] = subgroup_of(64); \
    subgroup = subgroups[0]; \
    change; \
    SAYS(squall_group_open(&attr, &callbacks, &group), SQUALL_INVALID, __VA_ARGS__); \
  } while (0)
#define REFUSED_SUBGROUP(change, ...) \
  REFUSED((change, subgroups[1] = subgroup, attr.subgroups = subgroups, attr.subgroup_count = 2), \
          __VA_ARGS__)
  REFUSED(attr.name = NULL, "name", "NULL");
  REFUSED(attr.name = "", "name", "\"\"");
  REFUSED(attr.name = long_name, "name", "64");
  REFUSED(attr.name = "a/b", "a/b");
  REFUSED(attr.name = "a b", "a b");
  REFUSED(attr.name = "a\nb", "letters");
  REFUSED(attr.name = "\377\376", "name", "UTF-8");
  REFUSED(attr.rank = 1, "rank 1", "0 to 0");
  REFUSED(attr.rank = UINT32_MAX, "rank");
  REFUSED(attr.members = 0, "0 members", "64");
  REFUSED(attr.members = 65, "65 members", "64");
  REFUSED(attr.members = 65537, "65537");
  REFUSED(attr.idle = 3, "idle", "3");
  REFUSED(attr.flags = 2048, "flags", "0x800");
  REFUSED(attr.flags = SQUALL_FLAG_TIE_BREAK, "SQUALL_FLAG_TIE_BREAK", "SQUALL_MEMBERSHIP_VIEWS");
  REFUSED(attr.flags = SQUALL_FLAG_JOIN, "SQUALL_FLAG_JOIN", "SQUALL_MEMBERSHIP_VIEWS");
  REFUSED(attr.membership = 2, "membership 2");
  REFUSED(attr.flags = UINT32_MAX, "flags", "0xfffff800");
  REFUSED(attr.flags = SQUALL_FLAG_PIN, "SQUALL_FLAG_PIN", "SQUALL_FLAG_OWN_THREAD");
  REFUSED(attr.flags = SQUALL_FLAG_PIN | SQUALL_FLAG_LOCK, "SQUALL_FLAG_PIN");
  REFUSED(attr.flags = SQUALL_FLAG_REQUIRE, "SQUALL_FLAG_REQUIRE", "SQUALL_FLAG_LOCK");
  REFUSED(attr.flags = SQUALL_FLAG_REQUIRE | SQUALL_FLAG_OWN_THREAD, "SQUALL_FLAG_HUGE");
  REFUSED(attr.flags = SQUALL_FLAG_REQUIRE_LOCK | SQUALL_FLAG_HUGE, "SQUALL_FLAG_REQUIRE_LOCK");
  REFUSED(attr.flags = SQUALL_FLAG_REQUIRE_HUGE | SQUALL_FLAG_LOCK, "SQUALL_FLAG_REQUIRE_HUGE");
  REFUSED(attr.reserved = 1, "attr.reserved is 1", "_init");
  REFUSED(attr.suspicion_ms = 3600001, "time to suspicion");
  REFUSED(attr.fabric = 5, "attr.fabric 5");
  REFUSED(attr.fabric = SQUALL_FABRIC_TCP, "SQUALL_MEMBERSHIP_FIXED", "SQUALL_FABRIC_SHM");
  REFUSED(attr.launcher = 2, "attr.launcher 2");
  REFUSED(attr.launcher = SQUALL_LAUNCHER_SLURM, "attr.members", "SQUALL_LAUNCHER_SLURM");
  REFUSED((attr.launcher = SQUALL_LAUNCHER_SLURM, attr.members = 0), "SLURM_PROCID", "srun");
#define SAYS_NOTHING(change, ...) REFUSED(change, __VA_ARGS__, "SQUALL_FABRIC_SHM", "leave it out")
  SAYS_NOTHING(attr.listen = "*", "attr.listen");
  SAYS_NOTHING(attr.advertise = "a", "attr.advertise");
  SAYS_NOTHING(attr.founders = "a", "attr.founders");
  SAYS_NOTHING(attr.contacts = "a", "attr.contacts");
  SAYS_NOTHING(attr.secret_file = "a", "attr.secret_file");
  SAYS_NOTHING(attr.flags = SQUALL_FLAG_SECRET_FD, "SQUALL_FLAG_SECRET_FD");
  SAYS_NOTHING(attr.flags = SQUALL_FLAG_TRUSTED_NETWORK, "SQUALL_FLAG_TRUSTED_NETWORK");
#define REFUSED_FAR(change, ...) \
  REFUSED((attr.fabric = SQUALL_FABRIC_TCP, attr.membership = SQUALL_MEMBERSHIP_VIEWS, \
           attr.founders = "127.0.0.1:0", attr.flags = SQUALL_FLAG_TRUSTED_NETWORK, change), \
          __VA_ARGS__)
  REFUSED_FAR(attr.flags = 0, "secret", "trusted");
  REFUSED_FAR((attr.flags = SQUALL_FLAG_SECRET_FD, attr.secret_fd = -1), "attr.secret_fd -1");
  REFUSED_FAR((attr.flags = SQUALL_FLAG_SECRET_FD, attr.secret_fd = 1234), "descriptor 1234");
  REFUSED_FAR(attr.flags |= SQUALL_FLAG_SECRET_FD, "SQUALL_FLAG_TRUSTED_NETWORK", "protected");
  REFUSED_FAR(attr.secret_fd = 3, "attr.secret_fd is 3", "SQUALL_FLAG_SECRET_FD");
  REFUSED_FAR(attr.secret_file = "a", "secret_file", "protected");
  REFUSED_FAR((attr.secret_file = "a", attr.flags = SQUALL_FLAG_SECRET_FD), "there is one");
  REFUSED_FAR(attr.secret_file = "\377", "attr.secret_file", "UTF-8");
  REFUSED_FAR(attr.founders = NULL, "founders", "0 addresses for 1 members");
  REFUSED_FAR(attr.founders = "a:1,b:2", "founders", "2 addresses for 1 members");
  REFUSED_FAR(attr.founders = "\377", "attr.founders", "UTF-8");
  REFUSED_FAR(attr.founders = "a:b:c", "`a:b:c`", "more than one colon");
  REFUSED_FAR(attr.listen = "tcp://a:1", "`tcp://a:1`", "HOST:PORT");
  REFUSED_FAR(attr.advertise = "a:99999", "`a:99999`", "65535");
  REFUSED_FAR((attr.flags |= SQUALL_FLAG_JOIN, attr.founders = NULL), "contacts");
  SAYS_NOTHING(attr.host = "a", "attr.host");
  REFUSED_FAR(attr.host = "a b", "this host", "a b", "letters");
  REFUSED_FAR(attr.host = "\377", "attr.host", "UTF-8");
  REFUSED_FAR(attr.rdma = "port=1", "attr.rdma", "SQUALL_FABRIC_VERBS");
  REFUSED_FAR((attr.fabric = SQUALL_FABRIC_VERBS, attr.rdma = "speed=1"), "speed=1", "gid_index");
#undef SAYS_NOTHING
#undef REFUSED_FAR
  REFUSED(attr.peers_users = "0, no such user", "`peers.users`", "no user \"no such user\"", "number");
  REFUSED(attr.peers_users = "\377", "attr.peers_users", "UTF-8");
  REFUSED(attr.peers_group = "no such group", "`peers.group`", "no group \"no such group\"", "number");
  REFUSED(attr.peers_group = "\377", "attr.peers_group", "UTF-8");
  REFUSED(attr.peers_group = "54321", "`peers.group`", "is not of", "54321");
  REFUSED(attr.peers_directory = "\377", "attr.peers_directory", "UTF-8");
  squall_transfer_attr_init(&transfer, sizeof transfer);
  squall_transfer_attr_init(NULL, 5);
#define REFUSED_TRANSFER(change, ...) \
  do { \
    squall_transfer_attr_t kept_ = transfer; \
    REFUSED((attr.transfer = &transfer, change), __VA_ARGS__); \
    transfer = kept_; \
  } while (0)
  REFUSED_TRANSFER(transfer.reserved = 9, "transfer.reserved is 9", "_init");
  REFUSED_TRANSFER(transfer.catchup_bytes = 1000, "catch-up buffer of 1000", "power of two");
  REFUSED_TRANSFER(transfer.catchup_bytes = UINT64_MAX, "power of two");
  REFUSED_TRANSFER(transfer.catchup_bytes_max = 4096, "to 4096 bytes");
  REFUSED_TRANSFER(transfer.near_bytes = (uint64_t)1 << 30, "1073741824", "a fourth");
  REFUSED(attr.subgroups = subgroups, "subgroup");
  REFUSED(attr.subgroup_count = 1, "subgroup");
  REFUSED((attr.subgroups = subgroups, attr.subgroup_count = 33), "33 subgroups", "32");
  REFUSED((attr.subgroups = subgroups, attr.subgroup_count = UINT32_MAX), "subgroups", "32");
  REFUSED_SUBGROUP(subgroup.name = "\377", "subgroups[1].name", "UTF-8");
  REFUSED_SUBGROUP((subgroup.name = "twice", subgroups[0].name = "twice"), "twice");
  REFUSED_SUBGROUP(subgroup.reserved = 9, "subgroups[1].reserved is 9", "_init");
  REFUSED_SUBGROUP(subgroup.mode = 2, "subgroup", "1", "mode 2");
  REFUSED_SUBGROUP(subgroup.lanes = 9, "subgroup 1", "9 lanes", "8");
  REFUSED_SUBGROUP(subgroup.lanes = UINT32_MAX, "subgroup 1", "lanes", "8");
  REFUSED_SUBGROUP(subgroup.window = (1u << 20) + 1, "subgroup 1", "window 1048577");
  REFUSED_SUBGROUP(subgroup.message_bytes_max = (1u << 30) + 1, "subgroup 1", "1073741825");
  REFUSED_SUBGROUP(subgroup.message_bytes_max = UINT32_MAX, "subgroup 1", "4294967295");
  REFUSED_SUBGROUP(subgroup.window_bytes = 1, "subgroup 1", "window_bytes 1");
  REFUSED_SUBGROUP(subgroup.window_bytes = UINT64_MAX, "subgroup 1", "window_bytes");
  REFUSED_SUBGROUP((subgroup.members = twice, subgroup.member_count = 2), "subgroup 1", "twice");
  REFUSED_SUBGROUP((subgroup.members = stranger, subgroup.member_count = 1), "subgroup 1", "7");
  REFUSED_SUBGROUP((subgroup.senders = stranger, subgroup.sender_count = 1), "subgroup 1", "7");
  REFUSED_SUBGROUP(subgroup.member_count = 1, "subgroups[1]", "count");
  REFUSED_SUBGROUP(subgroup.sender_count = 1, "subgroups[1]", "count");
  REFUSED_SUBGROUP(subgroup.members = none, "subgroups[1]", "count");
  REFUSED_SUBGROUP((subgroup.members = none, subgroup.member_count = 65), "subgroups[1]");
  REFUSED_SUBGROUP((subgroup.members = none, subgroup.member_count = UINT32_MAX), "subgroups[1]");
  REFUSED_SUBGROUP(subgroup.shards = 33, "subgroup 1", "33 shards", "32");
  REFUSED_SUBGROUP(subgroup.shards = 65536, "subgroups[1].shards is 65536");
  REFUSED_SUBGROUP(subgroup.shards = 32, "33 subgroups", "32");
  REFUSED_SUBGROUP(subgroup.shard_members_min = 2, "shard 0 of subgroup 1", "1 members", "needs 2");
  REFUSED_SUBGROUP(subgroup.shard_members_min = 65, "subgroup 1", "65 members", "64");
  REFUSED_SUBGROUP(subgroup.shard_members_min = UINT32_MAX, "subgroups[1].shard_members_min is");
  REFUSED_SUBGROUP((subgroup.shard_members_min = 3, subgroup.shard_members_max = 2), "subgroup 1",
                   "at most 2", "fewer than 3");
  REFUSED_SUBGROUP(subgroup.shard_members_max = 65536, "subgroups[1].shard_members_max is 65536");
  REFUSED_SUBGROUP(subgroup.senders_first = 65536, "subgroups[1].senders_first is 65536");
  REFUSED_SUBGROUP((subgroup.senders = none, subgroup.sender_count = 1, subgroup.senders_first = 1),
                   "subgroup 1", "first 1");
  REFUSED_SUBGROUP(subgroup.lag = 3, "subgroups[1].lag 3", "SQUALL_LAG");
  REFUSED_SUBGROUP(subgroup.lag_ms = 3, "subgroups[1].lag_ms is 3", "SQUALL_LAG_WAIT");
  REFUSED_SUBGROUP(subgroup.lag = SQUALL_LAG_EVICT, "subgroups[1].lag_ms is 0");
  REFUSED_SUBGROUP((subgroup.lag = SQUALL_LAG_REPORT, subgroup.lag_ms = 5), "subgroup 1", "fixed");
  REFUSED_SUBGROUP((subgroup.lag = SQUALL_LAG_EVICT, subgroup.lag_ms = 3600001), "subgroup 1", "lag");
  CHECK(group == 77);             /* outputs are written on success only */
  CHECK(descriptors() == before); /* and nothing is left of what was refused */
  attr = good;
  attr.name = long_name + 1; /* 64 letters */
  callbacks.deliver = NULL, callbacks.message = on_message;
  IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
  IS(squall_send(group, 0, "x", 1), 0);
  UNTIL(group, ear.heard == 1);
  IS(squall_group_close(group), SQUALL_OK);
}

/* A copy of a struct with another size, at the very end of its memory. */
static void *resized(const void *from, size_t len, uint32_t size, size_t room, int tail)
{
  unsigned char *to = calloc(1, room);
  if (to == NULL) exit(1);
  memcpy(to, from, len < room ? len : room);
  memcpy(to, &size, sizeof size);
  if (tail) to[room - 1] = 1;
  return to;
}

static void part_sizes(void)
{
  ear_t ear = {0};
  squall_group_t group = 77;
  squall_subgroup_attr_t subgroups[2] = {subgroup_of(64), subgroup_of(64)};
  squall_group_attr_t attr = attr_of(0, 1);
  squall_callbacks_t callbacks = callbacks_of(&ear);
  /* size, bytes that are there, whether the last of them is not 0, what open says */
  const struct { uint32_t size; size_t room; int tail, expected; } cases[] = {
    {0, 4, 0, SQUALL_WRONG_SIZE},
    {3, 4, 0, SQUALL_WRONG_SIZE},
    {4, 4, 0, SQUALL_WRONG_SIZE},
    {39, 39, 0, SQUALL_WRONG_SIZE}, /* less than version 1 of the smallest */
    {60, 60, 0, SQUALL_WRONG_SIZE}, /* ends in the middle of a pointer: of no version */
    {64, 64, 0, SQUALL_OK}, /* of version 0.1, before networks */
    {256, 256, 0, SQUALL_OK},
    {256, 256, 1, SQUALL_WRONG_SIZE},
    {4096, 4096, 0, SQUALL_OK},
    {4096, 4096, 1, SQUALL_WRONG_SIZE},
    {UINT32_MAX, 64, 0, SQUALL_WRONG_SIZE}, /* not initialised: nothing beyond may be read */
    {0x5a5a5a5a, 64, 0, SQUALL_WRONG_SIZE},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (int which = 0; which < 3; which++) {
      const void *of[] = {&attr, &callbacks, &subgroups[0]};
      const size_t len[] = {sizeof attr, sizeof callbacks, sizeof subgroups[0]};
      void *copy = resized(of[which], len[which], cases[i].size, cases[i].room, cases[i].tail);
      squall_group_attr_t with = attr;
      group = 77;
      if (which == 2) with.subgroups = copy, with.subgroup_count = 1;
      int status = squall_group_open(which == 0 ? copy : &with, which == 1 ? copy : &callbacks,
                                     &group);
      IS(status, cases[i].expected);
      if (status == SQUALL_OK) IS(squall_group_close(group), SQUALL_OK);
      else CHECK(group == 77), SAYS(status, SQUALL_WRONG_SIZE, "size", "_init");
      free(copy);
    }
  }
  attr.subgroups = subgroups, attr.subgroup_count = 2;
  subgroups[1].size = 64; /* they must be alike: where would the next one begin? */
  SAYS(squall_group_open(&attr, &callbacks, &group), SQUALL_WRONG_SIZE, "subgroups[1]", "64", "88");
  squall_subgroup_attr_t older[2] = {subgroup_of(64), subgroup_of(64)}; /* of version 0.1: 56 bytes */
  char packed[2 * 56];
  for (int i = 0; i < 2; i++) older[i].size = 56, memcpy(packed + 56 * i, &older[i], 56);
  attr.subgroups = (const squall_subgroup_attr_t *)(const void *)packed;
  IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
  IS(squall_group_close(group), SQUALL_OK);
  union { squall_subgroup_attr_t attr; char room[112]; } newer[2]; /* of a later version */
  for (int i = 0; i < 2; i++) {
    squall_subgroup_attr_init(&newer[i].attr, sizeof newer[i]);
    newer[i].attr.message_bytes_max = 32 + 16 * (uint32_t)i;
  }
  attr.subgroups = &newer[0].attr;
  IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
  char bytes[64] = {0};
  IS(squall_send(group, 0, bytes, 33), SQUALL_TOO_LONG);
  IS(squall_send(group, 1, bytes, 48), 0);
  IS(squall_send(group, 1, bytes, 49), SQUALL_TOO_LONG);
  IS(squall_group_close(group), SQUALL_OK);

  unsigned char raw[96]; /* _init clears just what it is told to, and notes it */
  memset(raw, 0xaa, sizeof raw);
  squall_group_attr_init((squall_group_attr_t *)(void *)raw, 0);
  squall_callbacks_init((squall_callbacks_t *)(void *)raw, 3);
  for (size_t i = 0; i < sizeof raw; i++) CHECK(raw[i] == 0xaa);
  squall_subgroup_attr_init((squall_subgroup_attr_t *)(void *)raw, 80); /* as programs of 0.1 say */
  uint32_t size;
  memcpy(&size, raw, sizeof size);
  CHECK(size == 80);
  for (size_t i = 4; i < sizeof raw; i++) CHECK(raw[i] == (i < 80 ? 0 : 0xaa));
}

/* ---- parts: sending -------------------------------------------------------------------------- */

static void part_send(void)
{
  static const uint16_t nobody[] = {0};
  static unsigned char bytes[1001];
  squall_subgroup_attr_t subgroups[] = {subgroup_of(1000), subgroup_of(64), subgroup_of(64)};
  squall_piece_t many[65], three[] = {{"ab", 2}, {NULL, 0}, {"cde", 3}};
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  subgroups[0].window = 8;
  subgroups[1].senders = nobody; /* of which the first 0 count: nobody sends */
  subgroups[2].lanes = 2;
  attr.subgroups = subgroups, attr.subgroup_count = 3;
  ear.since = nanoseconds();
  squall_group_t group = opened(attr, &ear);

  SAYS(squall_send(group, 0, bytes, 1001), SQUALL_TOO_LONG, "1001 bytes", "subgroup 0", "1000");
  SAYS(squall_send(group, 0, bytes, UINT32_MAX), SQUALL_TOO_LONG, "4294967295 bytes");
  SAYS(squall_send(group, 0, NULL, 1), SQUALL_INVALID, "bytes is NULL", "len is 1");
  SAYS(squall_send(group, 1, "x", 1), SQUALL_NOT_SENDER, "rank 0", "lane 0 of subgroup 1");
  SAYS(squall_send(group, 3, "x", 1), SQUALL_INVALID, "subgroup 3", "with 3");
  SAYS(squall_send(group, 0xffff, "x", 1), SQUALL_INVALID, "subgroup 65535");
  SAYS(squall_send(group, SQUALL_LANE(0, 1), "x", 1), SQUALL_NOT_SENDER, "lane 1 of subgroup 0");
  IS(squall_send(group, SQUALL_LANE(2, 2), "x", 1), SQUALL_NOT_SENDER);
  SAYS(squall_send(group, SQUALL_LANE(2, 8), "x", 1), SQUALL_NOT_SENDER, "lane 8", "at most 8");
  IS(squall_send(group, SQUALL_LANE(2, 0xffff), "x", 1), SQUALL_NOT_SENDER);
  IS(squall_poll(group, UINT32_MAX), 0); /* none of these was a message */

  IS(squall_send(group, 0, NULL, 0), 0); /* an empty message is one */
  UNTIL(group, ear.heard == 1);
  CHECK(ear.last_len == 0 && ear.aligned == 1);
  IS(squall_send(group, 0, bytes, 1000), 1);
  UNTIL(group, ear.heard == 2);
  CHECK(ear.last_len == 1000 && ear.bytes == 1000);
  IS(squall_send(group, 2, "first", 5), 0); /* each lane counts for itself */
  IS(squall_send(group, SQUALL_LANE(2, 1), "second", 6), 0);
  IS(squall_send(group, SQUALL_LANE(2, 1), "third", 5), 1);
  UNTIL(group, ear.heard == 5);

  for (int i = 0; i < 65; i++) many[i] = (squall_piece_t){"z", 1};
  SAYS(squall_sendv(group, 0, NULL, 1), SQUALL_INVALID, "pieces is NULL", "count is 1");
  SAYS(squall_sendv(group, 0, many, 65), SQUALL_INVALID, "65 pieces", "64");
  IS(squall_sendv(group, 0, many, UINT32_MAX), SQUALL_INVALID);
  IS(squall_sendv(group, 0, NULL, 0), 2);
  IS(squall_sendv(group, 0, many, 64), 3);
  UNTIL(group, ear.heard == 7);
  CHECK(ear.last_len == 64 && ear.last[0] == 'z' && ear.last[63] == 'z');
  IS(squall_sendv(group, 0, three, 3), 4);
  UNTIL(group, ear.heard == 8);
  CHECK(ear.last_len == 5 && memcmp(ear.last, "abcde", 5) == 0);
  three[1].len = 1;
  SAYS(squall_sendv(group, 0, three, 3), SQUALL_INVALID, "pieces[1].bytes is NULL", "its len is 1");
  three[1] = (squall_piece_t){bytes, 996};
  SAYS(squall_sendv(group, 0, three, 3), SQUALL_TOO_LONG, "1001 bytes");
  three[1].len = SIZE_MAX; /* the sum, and the sum's sum, go round */
  IS(squall_sendv(group, 0, three, 3), SQUALL_TOO_LONG);
  three[0] = three[1], three[1] = (squall_piece_t){bytes, 2};
  IS(squall_sendv(group, 0, three, 3), SQUALL_TOO_LONG);
  three[0].len = three[1].len = (size_t)1 << 63, three[2].len = 3;
  IS(squall_sendv(group, 0, three, 3), SQUALL_TOO_LONG);
  IS(squall_poll(group, UINT32_MAX), 0);

  /* A row ends before the first piece that cannot be a message; alone it is refused. */
  SAYS(squall_send_many(group, 0, NULL, 2), SQUALL_INVALID, "messages is NULL", "count is 2");
  IS(squall_send_many(group, 0, NULL, 0), 0);
  three[0] = (squall_piece_t){NULL, 7};
  SAYS(squall_send_many(group, 0, three, 3), SQUALL_INVALID, "messages[0].bytes", "len is 7");
  three[0] = (squall_piece_t){bytes, 1001};
  SAYS(squall_send_many(group, 0, three, 3), SQUALL_TOO_LONG, "1001 bytes");
  const size_t endless[] = {SIZE_MAX, SIZE_MAX / 2 + 1, (size_t)UINT32_MAX + 1};
  for (size_t i = 0; i < 3; i++) {
    three[0] = (squall_piece_t){bytes, endless[i]};
    SAYS(squall_send_many(group, 0, three, 3), SQUALL_TOO_LONG, "1000");
  }
  IS(squall_poll(group, UINT32_MAX), 0);

  for (int i = 0; i < 8; i++) IS(squall_send(group, 0, &i, sizeof i), 5 + i);
  IS(squall_send(group, 0, "x", 1), SQUALL_AGAIN); /* a window of 8 */
  void *slot = &slot;
  IS(squall_reserve(group, 0, 1, &slot), SQUALL_AGAIN);
  CHECK(slot == &slot);
  IS(squall_poll(group, 3), 3); /* the limit */
  IS(squall_poll(group, 0), 0);
  UNTIL(group, ear.heard == 16);
  IS(squall_send(group, 0, "x", 1), 13);
  UNTIL(group, ear.heard == 17);
  CHECK(ear.aligned == 17 && ear.timed == 17 && ear.last_number == 13);
  three[0] = (squall_piece_t){"one", 3}, three[1] = (squall_piece_t){bytes, SIZE_MAX};
  IS(squall_send_many(group, 0, three, 3), 1);
  UNTIL(group, ear.heard == 18);
  CHECK(ear.last_len == 3);
  IS(squall_group_close(group), SQUALL_OK);
}

/* One turn delivers so many, and no more. */
static void part_batch(void)
{
  ear_t ear = {0};
  squall_group_t group = opened(attr_of(0, 1), &ear);
  const int all = 2 * SQUALL_BATCH_MAX + 1;
  for (int i = 0; i < all; i++) IS(squall_send(group, 0, &i, sizeof i), i);
  IS(squall_poll(group, UINT32_MAX), SQUALL_BATCH_MAX);
  CHECK(ear.batches == 1);
  IS(squall_poll(group, UINT32_MAX), SQUALL_BATCH_MAX);
  UNTIL(group, ear.heard == (uint64_t)all);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_reserve(void)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  squall_subgroup_attr_t subgroup = subgroup_of(100);
  subgroup.lanes = 2;
  attr.subgroups = &subgroup, attr.subgroup_count = 1;
  squall_group_t group = opened(attr, &ear);
  void *slot = &slot, *other = &other;
  SAYS(squall_publish(group, 0, 0), SQUALL_NOT_RESERVED, "nothing is reserved");
  SAYS(squall_abort(group, 0), SQUALL_NOT_RESERVED, "nothing is reserved");
  SAYS(squall_reserve(group, 0, 101, &slot), SQUALL_TOO_LONG, "101 bytes", "100");
  IS(squall_reserve(group, 0, UINT32_MAX, &slot), SQUALL_TOO_LONG);
  SAYS(squall_reserve(group, 0, 10, NULL), SQUALL_INVALID, "bytes is NULL");
  SAYS(squall_reserve(group, 1, 10, &slot), SQUALL_INVALID, "subgroup 1");
  IS(squall_reserve(group, SQUALL_LANE(0, 2), 10, &slot), SQUALL_NOT_SENDER);
  CHECK(slot == &slot);
  IS(squall_abort(group, 0), SQUALL_NOT_RESERVED); /* none of these has reserved */
  IS(squall_reserve(group, 0, 100, &slot), SQUALL_OK);
  CHECK(slot != NULL && (uintptr_t)slot % 16 == 0);
  memset(slot, 'a', 100);
  SAYS(squall_reserve(group, 0, 1, &other), SQUALL_NOT_RESERVED, "publish or abort");
  SAYS(squall_send(group, 0, "x", 1), SQUALL_NOT_RESERVED, "publish or abort");
  IS(squall_sendv(group, 0, NULL, 0), SQUALL_NOT_RESERVED);
  CHECK(other == &other);
  IS(squall_send(group, SQUALL_LANE(0, 1), "other lane", 10), 0);
  UNTIL(group, ear.heard == 1); /* a reserved slot delays nobody */
  IS(squall_publish(group, 0, 101), SQUALL_TOO_LONG); /* it stays */
  SAYS(squall_publish(group, 0, UINT32_MAX), SQUALL_TOO_LONG, "4294967295 bytes", "reserved");
  IS(squall_publish(group, 0, 10), 0);
  IS(squall_publish(group, 0, 10), SQUALL_NOT_RESERVED);
  IS(squall_abort(group, 0), SQUALL_NOT_RESERVED);
  UNTIL(group, ear.heard == 2);
  CHECK(ear.last_len == 10 && memcmp(ear.last, "aaaaaaaaaa", 10) == 0);
  IS(squall_reserve(group, 0, 50, &slot), SQUALL_OK);
  memset(slot, 'b', 50);
  IS(squall_abort(group, 0), SQUALL_OK);
  IS(squall_abort(group, 0), SQUALL_NOT_RESERVED);
  IS(squall_reserve(group, 0, 0, &slot), SQUALL_OK);
  IS(squall_publish(group, 0, 1), SQUALL_TOO_LONG);
  IS(squall_publish(group, 0, 0), 1); /* the aborted one has no ordinal */
  UNTIL(group, ear.heard == 3);
  CHECK(ear.last_len == 0 && ear.bytes == 20);
  IS(squall_reserve(group, 0, 50, &slot), SQUALL_OK);
  IS(squall_group_close(group), SQUALL_OK); /* with a slot that was never published */
}

/* ---- parts: callbacks and threads ------------------------------------------------------------ */

static void try_all(ear_t *ear, squall_group_t group)
{
  if (ear->codes[7]++ > 0) return;
  ear->codes[0] = squall_poll(group, 1);
  if (ear->codes[0] == SQUALL_REENTRANT)
    SAYS(ear->codes[0], SQUALL_REENTRANT, "inside a callback", "return");
  ear->codes[1] = squall_wait(group, 0);
  ear->codes[2] = squall_arm(group);
  ear->codes[3] = squall_fd(group);
  ear->codes[4] = squall_group_close(group);
  ear->codes[5] = squall_send(group, 0, "from inside", 11);
  squall_stats_t stats = {0};
  stats.size = sizeof stats;
  ear->codes[6] = squall_stats_get(group, 0, &stats) + squall_group_rank(group);
}

static void part_callbacks(void)
{
  ear_t ear = {0}, inner = {0};
  ear.inside = try_all;
  squall_group_t group = opened(attr_of(0, 1), &ear);
  IS(squall_send(group, 0, "x", 1), 0);
  UNTIL(group, ear.heard == 2);
  CHECK(ear.group == group && ear.last_len == 11 && memcmp(ear.last, "from inside", 11) == 0);
  for (int i = 0; i < 5; i++) IS(ear.codes[i], SQUALL_REENTRANT);
  IS(ear.codes[5], 1);
  IS(ear.codes[6], 0);
  snprintf(name + strlen(name), 8, "-2"); /* another group may be used from inside one's callback */
  squall_group_t other = opened(attr_of(0, 1), &inner);
  inner.inside = NULL;
  ear.codes[7] = 1;
  IS(squall_send(other, 0, "y", 1), 0);
  UNTIL(other, inner.heard == 1);
  IS(squall_group_close(other), SQUALL_OK);
  IS(squall_group_close(group), SQUALL_OK);

  ear = (ear_t){0}; /* with a thread of its own: the first callback may come before open returns */
  ear.inside = try_all;
  squall_group_attr_t attr = attr_of(0, 1);
  attr.flags = SQUALL_FLAG_OWN_THREAD;
  group = opened(attr, &ear);
  IS(squall_send(group, 0, "x", 1), 0);
  double late = now() + PATIENCE;
  squall_stats_t stats = {0};
  for (stats.size = sizeof stats; stats.messages < 2 && now() < late;)
    IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
  SAYS(squall_poll(group, 1), SQUALL_OWN_THREAD, "SQUALL_FLAG_OWN_THREAD");
  IS(squall_wait(group, 0), SQUALL_OWN_THREAD);
  IS(squall_arm(group), SQUALL_OWN_THREAD);
  IS(squall_fd(group), SQUALL_OWN_THREAD);
  IS(squall_group_rank(group), 0);
  IS(squall_group_close(group), SQUALL_OK);
  CHECK(ear.heard == 2);
  for (int i = 0; i < 4; i++) IS(ear.codes[i], SQUALL_OWN_THREAD);
  IS(ear.codes[4], SQUALL_REENTRANT);
  IS(ear.codes[5], 1);
  IS(ear.codes[6], 0);
}

/* Sends as soon as it can, and waits to be told. */
static void eager_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = opened(attr_of(rank, 2), &ear);
  (void)out;
  IS(squall_send(group, 0, "early", 5), 0);
  UNTIL(group, ear.heard == 2 && told(in));
  IS(squall_group_close(group), SQUALL_OK);
}

static void send_once(ear_t *ear, squall_group_t group)
{
  if (ear->codes[7]++ == 0) ear->codes[5] = squall_send(group, 0, "answer", 6);
}

/* The first callback may come before open has returned; its handle is good. */
static void part_early_callback(void)
{
  for (int round = 0; round < 8; round++) {
    ear_t ear = {0};
    squall_group_attr_t attr = attr_of(0, 2);
    attr.flags = SQUALL_FLAG_OWN_THREAD;
    ear.inside = send_once;
    child_t child = start(eager_member, 1);
    squall_group_t group = opened(attr, &ear);
    squall_stats_t stats = {0};
    double late = now() + PATIENCE;
    for (stats.size = sizeof stats; stats.messages < 2 && now() < late; sched_yield())
      IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
    tell(child.out);
    CHECK(reap(child) == 0);
    IS(squall_group_close(group), SQUALL_OK);
    IS(ear.codes[5], 0);
    CHECK(ear.group == group);
  }
}

static void part_own_thread(void)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  squall_group_t group = 77;
  int before = descriptors();
  attr.flags = SQUALL_FLAG_OWN_THREAD | SQUALL_FLAG_PIN;
  attr.core = 100000;
  SAYS(open_with(attr, &ear, &group), SQUALL_INVALID, "core 100000");
  attr.core = UINT32_MAX;
  SAYS(open_with(attr, &ear, &group), SQUALL_INVALID, "core 4294967295");
  CHECK(group == 77 && descriptors() == before);
  attr.flags = SQUALL_FLAG_OWN_THREAD;
  for (uint32_t idle = SQUALL_IDLE_PARK; idle <= SQUALL_IDLE_SPIN; idle++) {
    ear = (ear_t){0};
    attr.idle = idle;
    IS(open_with(attr, &ear, &group), SQUALL_OK);
    for (int i = 0; i < 100; i++) IS(squall_send(group, 0, &i, sizeof i), i);
    squall_stats_t stats = {0};
    double late = now() + PATIENCE;
    for (stats.size = sizeof stats; stats.messages < 100 && now() < late;)
      IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
    IS(squall_group_close(group), SQUALL_OK);
    CHECK(ear.heard == 100 && ear.stops == 0);
  }
}

static void part_idle(void)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  for (attr.idle = SQUALL_IDLE_PARK; attr.idle <= SQUALL_IDLE_SPIN; attr.idle++) {
    squall_group_t group = opened(attr, &ear);
    if (attr.idle == SQUALL_IDLE_PARK) IS(squall_arm(group), SQUALL_OK);
    else SAYS(squall_arm(group), SQUALL_INVALID, "SQUALL_IDLE_PARK");
    IS(squall_poll(group, 1), 0);
    IS(squall_wait(group, 0), SQUALL_OK);
    IS(squall_wait(group, 1), SQUALL_OK);
    CHECK(squall_fd(group) >= 0 && fcntl(squall_fd(group), F_GETFD) == FD_CLOEXEC);
    if (attr.idle == SQUALL_IDLE_PARK) {
      IS(squall_send(group, 0, "x", 1), 0);
      IS(squall_arm(group), SQUALL_AGAIN); /* there is work */
      ear.heard = 0;
      UNTIL(group, ear.heard == 1);
    }
    IS(squall_group_close(group), SQUALL_OK);
  }
}

/* Two senders in their lanes, one that reads statistics, and one that polls. */
enum { EACH = 2000 };
static squall_group_t shared;
static _Atomic int busy;

static void *sending_thread(void *lane)
{
  for (uint32_t i = 0; i < EACH;) {
    int64_t ordinal = squall_send(shared, SQUALL_LANE(0, *(uint32_t *)lane), &i, sizeof i);
    if (ordinal == SQUALL_AGAIN) sched_yield();
    else if (ordinal == (int64_t)i) i++;
    else return IS(ordinal, (int)i), NULL;
  }
  return NULL;
}

static void *counting_thread(void *unused)
{
  squall_stats_t stats = {0};
  stats.size = sizeof stats;
  for (uint64_t last = 0; busy; last = stats.messages) {
    IS(squall_stats_get(shared, 0, &stats), SQUALL_OK);
    CHECK(stats.messages >= last && stats.messages <= 2 * EACH);
  }
  return unused;
}

static void part_threads(void)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  squall_subgroup_attr_t subgroup = subgroup_of(64);
  uint32_t lanes[] = {0, 1};
  pthread_t threads[3];
  subgroup.lanes = 2, subgroup.window = 64;
  attr.subgroups = &subgroup, attr.subgroup_count = 1;
  shared = opened(attr, &ear);
  busy = 1;
  CHECK(!pthread_create(&threads[0], NULL, sending_thread, &lanes[0]));
  CHECK(!pthread_create(&threads[1], NULL, sending_thread, &lanes[1]));
  CHECK(!pthread_create(&threads[2], NULL, counting_thread, NULL));
  double late = now() + PATIENCE; /* reading statistics never disturbs who polls */
  for (int status = 0; ear.heard < 2 * EACH && status >= 0 && now() < late;)
    if ((status = squall_poll(shared, UINT32_MAX)) < 0) IS(status, 0);
  CHECK(ear.heard == 2 * EACH);
  busy = 0;
  for (int i = 0; i < 3; i++) CHECK(!pthread_join(threads[i], NULL));
  IS(squall_group_close(shared), SQUALL_OK);
}

static void part_stats(void)
{
  ear_t ear = {0};
  squall_group_t group = opened(attr_of(0, 1), &ear);
  squall_stats_t stats, all;
  IS(squall_send(group, 0, "12345", 5), 0);
  UNTIL(group, ear.heard == 1);
  memset(&stats, 0xaa, sizeof stats);
  const uint32_t wrong[] = {0, 3, 4, 15, 0x20000, UINT32_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    stats.size = wrong[i];
    SAYS(squall_stats_get(group, 0, &stats), SQUALL_WRONG_SIZE, "size");
    CHECK(stats.size == wrong[i] && stats.turns == 0xaaaaaaaaaaaaaaaa);
  }
  SAYS(squall_stats_get(group, 0, NULL), SQUALL_INVALID, "NULL");
  stats.size = sizeof stats;
  SAYS(squall_stats_get(group, 1, &stats), SQUALL_INVALID, "subgroup 1");
  SAYS(squall_stats_get(group, UINT32_MAX, &stats), SQUALL_INVALID, "subgroup 4294967295");
  CHECK(stats.turns == 0xaaaaaaaaaaaaaaaa);
  all.size = sizeof all;
  IS(squall_stats_get(group, 0, &all), SQUALL_OK);
  CHECK(all.size == sizeof all && all.subgroup == 0 && all.sent == 1 && all.messages == 1 && all.epoch == 1);
  CHECK(all.bytes == 5 && all.batches == 1 && all.turns > 0 && all.delivered >= 1);
  CHECK(all.view_changes == 0 && all.wedged_ns == 0 && all.delivers_ns == 0);
  stats.size = offsetof(squall_stats_t, sent); /* of an older header */
  IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
  CHECK(stats.size == offsetof(squall_stats_t, sent) && stats.delivered == all.delivered);
  CHECK(stats.sent == 0xaaaaaaaaaaaaaaaa && stats.turns == 0xaaaaaaaaaaaaaaaa);
  struct { squall_stats_t stats; uint64_t more[4]; } newer;
  memset(&newer, 0xaa, sizeof newer);
  newer.stats.size = sizeof newer;
  IS(squall_stats_get(group, 0, &newer.stats), SQUALL_OK);
  CHECK(newer.stats.size == sizeof all && newer.stats.sent == 1); /* what was filled in */
  CHECK(newer.more[0] == 0xaaaaaaaaaaaaaaaa);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_limit(void)
{
  static squall_group_t groups[300];
  int count = 0, status = 0, before = descriptors();
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 1);
  squall_subgroup_attr_t subgroup = subgroup_of(64);
  char own[80];
  subgroup.window = 4, subgroup.window_bytes = 4096;
  attr.subgroups = &subgroup, attr.subgroup_count = 1;
  for (; count < 300 && status == 0; count += status == 0) {
    snprintf(own, sizeof own, "%.50s-%d", name, count);
    attr.name = own;
    status = open_with(attr, &ear, &groups[count]);
  }
  SAYS(status, SQUALL_LIMIT, count == 256 ? "256" : "ulimit -n"); /* which one comes first */
  CHECK(count > 16 && count <= 256);
  for (int i = 0; i < count; i++) IS(squall_group_close(groups[i]), SQUALL_OK);
  CHECK(descriptors() == before);
  IS(squall_group_close(opened(attr, &ear)), SQUALL_OK);
}

static int log_lines;
static int log_levels;

static void on_log(void *user, int32_t level, const char *text)
{
  CHECK(user == &log_lines && text && *text);
  log_lines++;
  log_levels |= 1 << level;
}

/* ---- parts: members among each other --------------------------------------------------------- */

/* Opens, says so, and goes on turning until it is told to leave; leaves in good order. */
static void quiet_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = opened(attr_of(rank, 2), &ear);
  tell(out);
  while (!told(in) && turn(group) >= 0) {}
  IS(squall_group_close(group), SQUALL_OK);
}

/* Memory that must be locked and may not be. */
static void locking_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = 77;
  squall_group_attr_t attr = attr_of(rank, 1);
  struct rlimit none = {0, 0};
  (void)in, (void)out;
  if (geteuid() == 0 && (setgid(65534) || setuid(65534))) perror("capi: setuid"), exit(1);
  CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
  attr.flags = SQUALL_FLAG_LOCK | SQUALL_FLAG_REQUIRE;
  SAYS(open_with(attr, &ear, &group), SQUALL_LIMIT, "ulimit -l");
  CHECK(group == 77);
  attr.flags = SQUALL_FLAG_LOCK; /* as far as it goes */
  log_lines = log_levels = 0;
  squall_log_set(on_log, &log_lines);
  IS(open_with(attr, &ear, &group), SQUALL_OK);
  CHECK(log_lines > 0 && log_levels == 1 << SQUALL_LOG_WARNING);
  IS(squall_group_close(group), SQUALL_OK);
  attr.flags = SQUALL_FLAG_HUGE | SQUALL_FLAG_LOCK; /* whether there are any or not */
  IS(open_with(attr, &ear, &group), SQUALL_OK);
  IS(squall_send(group, 0, "x", 1), 0);
  UNTIL(group, ear.heard == 1);
  IS(squall_group_close(group), SQUALL_OK);
  squall_log_set(NULL, NULL);
}

static void part_pages(void)
{
#ifdef __SANITIZE_ADDRESS__ /* gcc; with clang the part would fail */
  printf("  skipped: with the address sanitizer mlock does nothing\n");
  return;
#endif
  CHECK(reap(start(locking_member, 0)) == 0);
}

static void part_in_use(void)
{
  ear_t ear = {0};
  squall_group_t group = 77;
  char pid[24];
  child_t child = start(quiet_member, 1);
  squall_group_t mine = opened(attr_of(0, 2), &ear);
  hear(child.in);
  snprintf(pid, sizeof pid, "process %d", (int)child.pid);
  SAYS(open_with(attr_of(1, 2), &ear, &group), SQUALL_IN_USE, "rank 1", name, pid, "close it");
  CHECK(group == 77);
  tell(child.out);
  CHECK(reap(child) == 0);
  IS(squall_group_close(mine), SQUALL_OK);
  mine = opened(attr_of(0, 1), &ear); /* also if the holder does not look: this process itself */
  snprintf(pid, sizeof pid, "process %d", (int)getpid());
  SAYS(open_with(attr_of(0, 1), &ear, &group), SQUALL_IN_USE, "rank 0", name, pid);
  IS(squall_group_close(mine), SQUALL_OK);
}

static void foreign_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = 77;
  (void)in, (void)out;
  if (setgid(65534) || setuid(65534)) perror("capi: setuid"), exit(1);
  SAYS(open_with(attr_of(rank, 1), &ear, &group), SQUALL_FOREIGN_OWNER, "user 0", "user 65534");
  CHECK(group == 77);
}

/* Of another user, that the first member lists. */
static void listed_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(rank, 2);
  (void)in, (void)out;
  if (setgid(54321) || setuid(54321)) perror("capi: setuid"), exit(1);
  attr.peers_users = "0";
  squall_group_t group = opened(attr, &ear);
  IS(squall_send(group, 0, "of another", 10), 0);
  UNTIL(group, ear.heard == 1);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_foreign_owner(void)
{
  ear_t ear = {0};
  if (geteuid() != 0) {
    printf("  skipped: only root can be two users\n");
    return;
  }
  squall_group_t group = opened(attr_of(0, 1), &ear);
  CHECK(reap(start(foreign_member, 0)) == 0);
  IS(squall_group_close(group), SQUALL_OK);
  squall_group_attr_t attr = attr_of(0, 2);
  attr.peers_users = "12, 54321";
  child_t child = start(listed_member, 1);
  group = opened(attr, &ear);
  UNTIL(group, ear.heard == 1);
  CHECK(reap(child) == 0);
  IS(squall_group_close(group), SQUALL_OK);
}

static void *second_thread(void *unused)
{
  ear_t ear = {0};
  squall_group_t group = opened(attr_of(1, 2), &ear);
  IS(squall_group_rank(group), 1);
  IS(squall_send(group, 0, "from 1", 6), 0);
  UNTIL(group, ear.heard == 2);
  IS(squall_group_close(group), SQUALL_OK);
  return unused;
}

static void part_one_process(void)
{
  pthread_t thread;
  ear_t ear = {0};
  CHECK(pthread_create(&thread, NULL, second_thread, NULL) == 0);
  squall_group_t group = opened(attr_of(0, 2), &ear);
  IS(squall_group_rank(group), 0);
  IS(squall_group_members(group), 2);
  IS(squall_send(group, 0, "from 0", 6), 0);
  UNTIL(group, ear.heard == 2);
  CHECK(ear.bytes == 12);
  CHECK(pthread_join(thread, NULL) == 0);
  IS(squall_group_close(group), SQUALL_OK);
}

/* Waits alone with another configuration than the part's. */
static void other_window(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(rank, 2);
  squall_subgroup_attr_t subgroup = subgroup_of(64);
  squall_group_t group = 77;
  (void)in;
  subgroup.window = 16;
  attr.subgroups = &subgroup, attr.subgroup_count = 1;
  attr.open_timeout_ms = 300;
  tell(out);
  SAYS(open_with(attr, &ear, &group), SQUALL_NOT_COMPLETE, name, "[1]", "0.3 s");
}

static void part_mismatch(void)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(1, 2);
  squall_subgroup_attr_t subgroup = subgroup_of(64);
  squall_group_t group = 77;
  int status;
  subgroup.window = 17;
  attr.subgroups = &subgroup, attr.subgroup_count = 1, attr.open_timeout_ms = 30;
  do { /* until it is at its door */
    child_t child = start(other_window, 0);
    hear(child.in);
    do status = open_with(attr, &ear, &group);
    while (status == SQUALL_NOT_COMPLETE && waitpid(child.pid, NULL, WNOHANG | WNOWAIT) == 0);
    if (status != SQUALL_NOT_COMPLETE)
      SAYS(status, SQUALL_MISMATCH, "subgroup.0.window=16", "subgroup.0.window=17", "rank 0",
           "same attributes");
    CHECK(reap(child) == 0); /* the one that came first is not disturbed */
  } while (status == SQUALL_NOT_COMPLETE && failures == 0);
  CHECK(group == 77);
}

/* A child has none of its parent's groups, and whatever it does with them harms nobody. */
static void part_fork(void)
{
  ear_t ear = {0}, other = {0};
  squall_group_t group = opened(attr_of(0, 1), &ear), own = 0;
  int status = -1, fd = squall_fd(group);
  IS(squall_send(group, 0, "before", 6), 0);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    failures = 0;
    all_answer(group, SQUALL_CLOSED);
    IS(squall_group_close(group), SQUALL_CLOSED);
    SAYS(open_with(attr_of(0, 1), &other, &own), SQUALL_IN_USE, "rank 0", name);
    snprintf(name + strlen(name), 8, "-2");
    own = opened(attr_of(0, 1), &other);
    CHECK(own != group);
    IS(squall_send(own, 0, "child", 5), 0);
    UNTIL(own, other.heard == 1);
    IS(squall_group_close(own), SQUALL_OK);
    exit(failures != 0);
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
  IS(squall_send(group, 0, "after", 5), 1);
  UNTIL(group, ear.heard == 2);
  CHECK(squall_fd(group) == fd);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_not_complete(void)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(1, 4);
  squall_group_t group = 77;
  int before = descriptors();
  double start = now();
  attr.open_timeout_ms = 50;
  SAYS(open_with(attr, &ear, &group), SQUALL_NOT_COMPLETE, name, "[0, 2, 3]");
  CHECK(group == 77 && descriptors() == before);
  CHECK(now() - start >= 0.05);
}

/* Sends for ever, until it is killed. */
static void endless_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = opened(attr_of(rank, 2), &ear);
  (void)in;
  tell(out);
  while (squall_send(group, 0, "again", 5), turn(group) >= 0) {}
}

/* Rank 1 has gone: how, and whom the group blames for it. */
static void over(squall_group_t group, ear_t *ear, int expected, int32_t blamed)
{
  double late = now() + PATIENCE;
  int status = 0;
  while (status >= 0 && now() < late) status = turn(group);
  IS(status, expected);
  for (int i = 0; i < 3; i++) { /* and so it stays */
    SAYS(squall_poll(group, UINT32_MAX), expected, ear->why, "close");
    IS(squall_poll(0, 1), SQUALL_NO_HANDLE);
    SAYS(squall_wait(group, -1), expected, ear->why, "close");
    IS(squall_poll(0, 1), SQUALL_NO_HANDLE);
    SAYS(squall_send(group, 0, "x", 1), expected, ear->why, "close");
  }
  void *slot;
  IS(squall_reserve(group, 0, 1, &slot), expected);
  CHECK(ear->stops == 1 && ear->stopped == expected && ear->why[0]);
  CHECK(ear->stopped_rank == blamed);
  squall_stats_t stats = {0};
  stats.size = sizeof stats;
  IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
  IS(squall_group_rank(group), 0);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_peer_lost(void)
{
  int before = descriptors();
  log_lines = log_levels = 0;
  squall_log_set(on_log, &log_lines);
  for (int round = 0; round < 2; round++) { /* the name is free again */
    ear_t ear = {0};
    child_t child = start(endless_member, 1);
    squall_group_t group = opened(attr_of(0, 2), &ear);
    hear(child.in);
    UNTIL(group, ear.heard >= 100);
    CHECK(kill(child.pid, SIGKILL) == 0);
    over(group, &ear, SQUALL_PEER_LOST, 1);
    int status = reap(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    if (round == 0) CHECK(log_lines > 0 && log_levels & 1 << SQUALL_LOG_ERROR && log_levels < 16);
    squall_log_set(NULL, NULL);
    if (round == 0) log_lines = 0;
  }
  CHECK(log_lines == 0); /* silenced */
  CHECK(descriptors() == before);
}

/* ---- parts: members come and go -------------------------------------------------------------- */

/* What the view callback has said last. */
static struct {
  uint32_t views, members, joined, departed, rank;
  uint64_t epoch, incarnations[8], gone;
  int gone_status;
  char gone_text[128];
} seen;

static void on_view(void *user, squall_group_t group, const squall_view_t *view)
{
  (void)user, (void)group;
  CHECK(view->size >= sizeof *view && view->epoch > seen.epoch && view->subgroup_count == 1);
  CHECK(view->wire >= 1 && view->reserved == 0);
  CHECK(view->subgroups[0].member_count == view->member_count && view->member_count <= 8);
  CHECK(view->subgroups[0].sender_count == view->member_count && view->rank < view->member_count);
  for (uint32_t i = 0; i < view->member_count; i++) {
    CHECK(view->members[i].incarnation != 0 && view->members[i].reserved == 0);
    CHECK(view->subgroups[0].members[i] == i && view->subgroups[0].senders[i] == i);
    seen.incarnations[i] = view->members[i].incarnation;
  }
  seen.views++, seen.epoch = view->epoch, seen.rank = view->rank;
  seen.members = view->member_count, seen.joined = view->joined_count;
  seen.departed = view->departed_count;
  if (view->departed_count > 0) {
    seen.gone = view->departed[0].incarnation, seen.gone_status = view->departed[0].status;
    snprintf(seen.gone_text, sizeof seen.gone_text, "%s", view->departed[0].text);
  }
  if (view->joined_count > 0) CHECK(view->joined[view->joined_count - 1] < view->member_count);
}

/* What was given back. */
static struct {
  uint64_t count, next;
  int status;
} back;

static void on_dropped(void *user, squall_group_t group, uint32_t subgroup, uint64_t ordinal,
                       const void *bytes, uint32_t len, int status)
{
  (void)user, (void)group;
  CHECK(subgroup == 0 && ordinal == back.next && len == 4 && memcmp(bytes, "mine", 4) == 0);
  back.count++, back.next++, back.status = status;
}

/* A member that is alone goes: by leaving it has its own delivered, by closing they come back. */
static void leaving_alone(void)
{
  for (int closes = 0; closes < 2; closes++) {
    ear_t ear = {0};
    squall_group_t group = 0;
    squall_group_attr_t attr = attr_of(0, 1);
    squall_callbacks_t callbacks = callbacks_of(&ear);
    void *place = NULL;
    attr.membership = SQUALL_MEMBERSHIP_VIEWS, callbacks.dropped = on_dropped;
    memset(&back, 0, sizeof back);
    IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
    for (int i = 0; i < 3; i++) IS(squall_send(group, 0, "mine", 4), i);
    if (!closes) {
      IS(squall_reserve(group, 0, 4, &place), SQUALL_OK);
      IS(squall_leave(group), SQUALL_OK);
      SAYS(squall_publish(group, 0, 4), SQUALL_LEFT, "leaves");
      IS(squall_abort(group, 0), SQUALL_OK);
      SAYS(squall_send(group, 0, "more", 4), SQUALL_LEFT, "poll until SQUALL_LEFT");
      IS(squall_leave(group), SQUALL_OK);
      int status = 0;
      while (status >= 0) status = turn(group);
      IS(status, SQUALL_LEFT);
      CHECK(ear.heard == 3 && back.count == 0 && ear.stops == 1);
    }
    IS(squall_group_close(group), SQUALL_OK);
    if (closes) CHECK(ear.heard == 0 && back.count == 3 && back.status == SQUALL_LEFT);
  }
}

static squall_group_t opened_views(uint32_t rank, uint32_t flags, ear_t *ear)
{
  squall_group_t group = 0;
  squall_group_attr_t attr = attr_of(rank, 3);
  squall_callbacks_t callbacks = callbacks_of(ear);
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, attr.flags = flags;
  callbacks.view = on_view;
  memset(&seen, 0, sizeof seen);
  int status = squall_group_open(&attr, &callbacks, &group);
  if (status != SQUALL_OK) printf("  FAILED: %s\n", squall_status_text(status)), exit(1);
  return group;
}

/* Takes part until it is told otherwise: by a signal, or by the others. */
static void coming_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  int status = 0, asked = 0;
  squall_group_t group = opened_views(rank, rank == 9 ? SQUALL_FLAG_JOIN : 0, &ear);
  tell(out);
  while (status >= 0) {
    (void)squall_send(group, 0, "and again", 9);
    status = turn(group);
    if (!asked && told(in)) asked = 1, IS(squall_leave(group), SQUALL_OK);
  }
  CHECK(asked ? status == SQUALL_LEFT : status == SQUALL_EXPELLED);
  IS(squall_send(group, 0, "x", 1), status);
  IS(squall_group_close(group), SQUALL_OK);
}

/* No later step is told as of before this: a group reads the clock every 32 turns, or sooner. */
static uint64_t before_steps(squall_group_t group)
{
  uint64_t at = nanoseconds();
  for (int i = 0; i < 64; i++) CHECK(squall_poll(group, UINT32_MAX) >= 0);
  return at;
}

/* The last change is one of those that the view callback was told of, and lies between two looks at
 * the clock; its steps follow one another. */
static void check_steps(squall_group_t group, uint64_t since, int suspects, ear_t *ear)
{
  squall_stats_t stats = {0};
  stats.size = sizeof stats;
  IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
  CHECK(stats.view_changes >= 1 && stats.view_changes == seen.views - 1);
  uint64_t heard = ear->heard;
  UNTIL(group, ear->heard > heard); /* in the new view, unless the next one has come */
  UNTIL(group, squall_stats_get(group, 0, &stats) == SQUALL_OK && stats.delivers_ns != 0);
  uint64_t until = nanoseconds();
  const uint64_t steps[] = {since, stats.wedged_ns, stats.echoed_ns, stats.ended_ns, stats.passed_ns,
                            stats.installed_ns, stats.built_ns, stats.delivers_ns, until};
  for (size_t i = 1; i < sizeof steps / sizeof *steps; i++) CHECK(steps[i - 1] <= steps[i]);
  CHECK(since <= stats.agreed_ns && stats.agreed_ns <= stats.echoed_ns);
  if (suspects) CHECK(since <= stats.suspected_ns && stats.suspected_ns <= stats.agreed_ns);
  CHECK(stats.view_changes == seen.views - 1);
}

static void part_views(void)
{
  ear_t ear = {0};
  child_t one = start(coming_member, 1), two = start(coming_member, 2), late;
  squall_group_t group = opened_views(0, 0, &ear);
  hear(one.in), hear(two.in);
  UNTIL(group, ear.heard >= 10);
  CHECK(seen.views == 1 && seen.members == 3 && seen.joined == 3 && seen.departed == 0);
  IS(squall_keep_alive(group), SQUALL_OK);
  IS(squall_report(group, 12345), SQUALL_OK); /* nobody's */
  squall_stats_t stats;
  stats.size = sizeof stats;
  IS(squall_stats_get(group, 0, &stats), SQUALL_OK);
  CHECK(stats.view_changes == 0 && stats.wedged_ns == 0 && stats.delivers_ns == 0);
  uint64_t asked = before_steps(group);
  tell(one.out);
  UNTIL(group, seen.members == 2);
  CHECK(seen.departed == 1 && seen.gone_status == SQUALL_PEER_LEFT && seen.joined == 0);
  check_steps(group, asked, 0, &ear);
  CHECK(reap(one) == 0);
  late = start(coming_member, 9);
  UNTIL(group, seen.members == 3);
  CHECK(seen.joined == 1 && seen.departed == 0);
  hear(late.in);
  uint64_t heard = ear.heard;
  UNTIL(group, ear.heard > heard + 10);
  /* Whoever is reported is expelled, however alive it is, and hears of it however late it wakes. */
  CHECK(kill(late.pid, SIGSTOP) == 0);
  asked = before_steps(group);
  IS(squall_report(group, seen.incarnations[2]), SQUALL_OK);
  uint64_t reported = seen.incarnations[2];
  UNTIL(group, seen.members == 2);
  CHECK(seen.gone == reported && seen.gone_status == SQUALL_PEER_LOST && seen.gone_text[0]);
  check_steps(group, asked, 1, &ear);
  CHECK(kill(late.pid, SIGCONT) == 0);
  CHECK(reap(late) == 0);
  IS(squall_group_members(group), 2);
  /* Of two the last one is no majority. */
  CHECK(kill(two.pid, SIGKILL) == 0);
  double until = now() + PATIENCE;
  int status = 0;
  while (status >= 0 && now() < until) status = turn(group);
  IS(status, SQUALL_PARTITIONED);
  SAYS(squall_send(group, 0, "x", 1), SQUALL_PARTITIONED, "majority");
  CHECK(ear.stops == 1 && ear.stopped == SQUALL_PARTITIONED);
  IS(squall_group_close(group), SQUALL_OK);
  reap(two);
  leaving_alone();
  /* Where members do not change there is nothing to ask for. */
  squall_group_t alone = opened(attr_of(0, 1), &ear);
  SAYS(squall_leave(alone), SQUALL_INVALID, "SQUALL_MEMBERSHIP_VIEWS");
  IS(squall_group_close(alone), SQUALL_OK);
  squall_group_attr_t attr = attr_of(0, 1);
  squall_group_t none = 0;
  attr.flags = SQUALL_FLAG_JOIN;
  SAYS(open_with(attr, &ear, &none), SQUALL_INVALID, "SQUALL_FLAG_JOIN");
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, attr.open_timeout_ms = 50;
  SAYS(open_with(attr, &ear, &none), SQUALL_NOT_COMPLETE, name, "nobody");
  attr.membership = 7;
  SAYS(open_with(attr, &ear, &none), SQUALL_INVALID, "membership 7");
}

/* ---- parts: registered memory ---------------------------------------------------------------- */

enum { WINDOW = 300000 };

static squall_memory_attr_t memory_of(void *bytes, uint64_t length, uint32_t flags)
{
  squall_memory_attr_t attr;
  squall_memory_attr_init(&attr, sizeof attr);
  attr.address = bytes, attr.length = length, attr.flags = flags;
  return attr;
}

static squall_memory_t registered(squall_group_t group, void *bytes, uint64_t length, uint32_t flags)
{
  squall_memory_t memory = 0;
  squall_memory_attr_t attr = memory_of(bytes, length, flags);
  IS(squall_memory_register(group, &attr, &memory), SQUALL_OK);
  CHECK(memory != 0);
  return memory;
}

/* Nobody is suspected for being slow. */
static squall_group_t opened_lending(uint32_t rank, ear_t *ear)
{
  squall_group_t group = 0;
  squall_group_attr_t attr = attr_of(rank, 3);
  squall_callbacks_t callbacks = callbacks_of(ear);
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, attr.suspicion_ms = 3600000;
  callbacks.view = on_view;
  memset(&seen, 0, sizeof seen);
  int status = squall_group_open(&attr, &callbacks, &group);
  if (status != SQUALL_OK) printf("  FAILED: %s\n", squall_status_text(status)), exit(1);
  return group;
}

/* Lends a window that may be written, and one that may be read; hears of each put into the first. */
static void lending_member(uint32_t rank, int in, int out)
{
  static unsigned char window[WINDOW], shown[WINDOW];
  ear_t ear = {0};
  int status = 0;
  squall_group_t group = opened_lending(rank, &ear);
  squall_memory_t both[2] = {
    registered(group, window, WINDOW, SQUALL_MEMORY_READ | SQUALL_MEMORY_WRITE),
    registered(group, shown, WINDOW, SQUALL_MEMORY_READ),
  };
  for (int i = 0; i < 2; i++) {
    squall_ticket_t ticket;
    IS(squall_memory_ticket(group, both[i], &ticket), SQUALL_OK);
    CHECK(write(out, &ticket, sizeof ticket) == sizeof ticket);
  }
  memset(shown, 7, WINDOW);
  for (int leaves = 0; status >= 0;) {
    squall_completion_t heard;
    while (squall_memory_poll(group, &heard, 1) == 1) {
      CHECK(heard.what == SQUALL_ANNOUNCED && heard.status == SQUALL_OK && heard.memory == both[0]);
      CHECK(heard.offset == 5 && heard.length == WINDOW - 5 && heard.tag == 0 && heard.incarnation);
      for (int i = 5; i < WINDOW; i++) CHECK(window[i] == heard.word);
      tell(out);
    }
    status = turn(group);
    if (!leaves && told(in)) leaves = 1, IS(squall_leave(group), SQUALL_OK);
  }
  IS(status, SQUALL_LEFT);
  IS(squall_group_close(group), SQUALL_OK);
}

static squall_completion_t completed(squall_group_t group)
{
  squall_completion_t done = {0};
  int count = 0;
  UNTIL(group, count || (count = squall_memory_poll(group, &done, 1)) != 0);
  CHECK(count == 1);
  return done;
}

static void refused_memory(squall_group_t group, squall_memory_t mine, squall_ticket_t ticket)
{
  squall_memory_t memory = 7;
  squall_memory_attr_t attr = memory_of(&attr, 8, 0);
  squall_memory_info_t info = {0};
  squall_access_t access;
  SAYS(squall_memory_register(group, NULL, &memory), SQUALL_INVALID, "attr is NULL");
  SAYS(squall_memory_register(group, &attr, NULL), SQUALL_INVALID, "memory is NULL");
  attr.kind = 9;
  SAYS(squall_memory_register(group, &attr, &memory), SQUALL_INVALID, "kind 9");
  attr.kind = SQUALL_MEMORY_HOST, attr.flags = 64;
  SAYS(squall_memory_register(group, &attr, &memory), SQUALL_INVALID, "0x40");
  attr.flags = SQUALL_MEMORY_DIRECT;
  SAYS(squall_memory_register(group, &attr, &memory), SQUALL_NOT_DIRECT, "copied");
  attr = memory_of(&attr, 0, 0);
  SAYS(squall_memory_register(group, &attr, &memory), SQUALL_INVALID, "length is 0");
  attr = memory_of(NULL, 8, 0);
  SAYS(squall_memory_register(group, &attr, &memory), SQUALL_INVALID, "address");
  attr.size = 3;
  SAYS(squall_memory_register(group, &attr, &memory), SQUALL_WRONG_SIZE, "size 3");
  CHECK(memory == 7);
  SAYS(squall_memory_deregister(group, 99), SQUALL_INVALID, "99");
  SAYS(squall_memory_ticket(group, 99, &ticket), SQUALL_INVALID, "99");
  SAYS(squall_memory_ticket(group, mine, NULL), SQUALL_INVALID, "ticket is NULL");
  SAYS(squall_memory_info(group, mine, NULL), SQUALL_INVALID, "info is NULL");
  SAYS(squall_memory_info(group, mine, &info), SQUALL_WRONG_SIZE, "info.size is 0");
  squall_access_init(&access, sizeof access);
  SAYS(squall_memory_put(group, NULL), SQUALL_INVALID, "access is NULL");
  SAYS(squall_memory_put(group, &access), SQUALL_INVALID, "ticket is NULL");
  access.ticket = &ticket, access.memory = mine, access.flags = 2;
  SAYS(squall_memory_put(group, &access), SQUALL_INVALID, "0x2");
  access.flags = SQUALL_ACCESS_ANNOUNCE;
  SAYS(squall_memory_get(group, &access), SQUALL_INVALID, "for a put");
  access.flags = 0, access.length = WINDOW + 1;
  SAYS(squall_memory_put(group, &access), SQUALL_INVALID, "300001 bytes from 0 on");
  access.length = 1, access.ticket_offset = UINT64_MAX;
  SAYS(squall_memory_get(group, &access), SQUALL_INVALID, "of a ticket for 300000");
  access.ticket_offset = 0, ticket.words[3]++;
  SAYS(squall_memory_get(group, &access), SQUALL_INVALID, "no ticket");
  SAYS(squall_memory_poll(group, NULL, 1), SQUALL_INVALID, "completions is NULL");
  IS(squall_memory_poll(group, NULL, 0), 0);
  IS(squall_memory_wait(group, 0), SQUALL_TIMED_OUT);
}

static void part_memory(void)
{
  static unsigned char purse[WINDOW];
  ear_t ear = {0};
  child_t one = start(lending_member, 1), two = start(lending_member, 2);
  squall_group_t group = opened_lending(0, &ear);
  squall_ticket_t window, shown, gone, rest;
  CHECK(read(one.in, &window, sizeof window) == sizeof window);
  CHECK(read(one.in, &shown, sizeof shown) == sizeof shown);
  CHECK(read(two.in, &gone, sizeof gone) == sizeof gone);
  CHECK(read(two.in, &rest, sizeof rest) == sizeof rest);
  squall_memory_t mine = registered(group, purse, WINDOW, 0);
  squall_memory_info_t info = {0};
  info.size = sizeof info;
  IS(squall_memory_info(group, mine, &info), SQUALL_OK);
  CHECK(info.path == SQUALL_PATH_STAGED && info.length == WINDOW && info.flags == 0);
  struct { squall_memory_info_t info; uint64_t later; } newer;
  memset(&newer, 0xa5, sizeof newer);
  newer.info.size = sizeof newer;
  IS(squall_memory_info(group, mine, &newer.info), SQUALL_OK);
  CHECK(newer.info.size == sizeof info && newer.info.length == WINDOW && newer.later == 0xa5a5a5a5a5a5a5a5u);
  refused_memory(group, mine, window);
  squall_access_t access;
  squall_access_init(&access, sizeof access);
  access.memory = mine, access.ticket = &window, access.ticket_offset = 5;
  access.length = WINDOW - 5, access.flags = SQUALL_ACCESS_ANNOUNCE;
  for (uint64_t word = 1; word < 4; word++) {
    memset(purse, (int)word, WINDOW);
    access.word = word, access.tag = 40 + word;
    IS(squall_memory_put(group, &access), SQUALL_OK);
    squall_completion_t done = completed(group);
    CHECK(done.what == SQUALL_DONE_PUT && done.status == SQUALL_OK && done.tag == 40 + word);
    CHECK(done.memory == mine && done.length == WINDOW - 5 && done.incarnation);
    UNTIL(group, told(one.in));
    hear(one.in);
  }
  access.flags = 0;
  memset(purse, 0, WINDOW);
  IS(squall_memory_get(group, &access), SQUALL_OK);
  squall_completion_t got = completed(group);
  CHECK(got.what == SQUALL_DONE_GET && got.status == SQUALL_OK && purse[0] == 3);
  access.ticket = &shown;
  SAYS(squall_memory_put(group, &access), SQUALL_DENIED, "written");
  IS(squall_memory_get(group, &access), SQUALL_OK);
  got = completed(group);
  CHECK(got.status == SQUALL_OK && purse[WINDOW - 6] == 7 && purse[WINDOW - 5] == 0);
  /* Who dies takes along what was asked of it. */
  access.ticket = &gone;
  CHECK(kill(two.pid, SIGSTOP) == 0 && kill(two.pid, SIGKILL) == 0);
  IS(squall_memory_get(group, &access), SQUALL_OK);
  got = completed(group);
  CHECK(got.status == SQUALL_GONE);
  UNTIL(group, seen.members == 2);
  SAYS(squall_memory_get(group, &access), SQUALL_GONE, "no member");
  IS(squall_memory_deregister(group, mine), SQUALL_OK);
  SAYS(squall_memory_get(group, &access), SQUALL_GONE, "no member");
  access.ticket = &window;
  SAYS(squall_memory_get(group, &access), SQUALL_INVALID, "deregistered");
  tell(one.out);
  int status = 0;
  while (status >= 0 && seen.members == 2) status = turn(group);
  CHECK(reap(one) == 0);
  IS(squall_group_close(group), SQUALL_OK);
  reap(two);
  squall_group_t fixed = opened(attr_of(0, 1), &ear);
  SAYS(squall_memory_deregister(fixed, 1), SQUALL_INVALID, "SQUALL_MEMBERSHIP_VIEWS");
  IS(squall_group_close(fixed), SQUALL_OK);
}

/* ---- parts: who is where --------------------------------------------------------------------- */

/* Two shards of two members at least, and a subgroup in which only the first member sends. */
static squall_subgroup_attr_t parted[2];

static void on_parts(void *user, squall_group_t group, const squall_view_t *view)
{
  (void)user, (void)group;
  CHECK(view->size >= sizeof *view && view->subgroup_count == 3);
  for (uint32_t i = 0; i < 3; i++) {
    const squall_part_t *part = &view->parts[i];
    const squall_shard_t *shard = &view->subgroups[i];
    CHECK(part->of == i / 2 && part->shard == i % 2 && part->reserved == 0);
    CHECK(part->lacks == (i < 2 && shard->member_count < 2 ? 2 - shard->member_count : 0));
    if (part->lacks > 0) CHECK(shard->sender_count == 0);
  }
  CHECK(view->subgroups[2].sender_count == 1 && view->subgroups[2].senders[0] == 0);
  seen.members = view->member_count, seen.rank = view->rank;
}

static squall_group_t opened_parted(uint32_t rank, uint32_t flags, ear_t *ear)
{
  squall_group_t group = 0;
  squall_group_attr_t attr = attr_of(rank, 3);
  squall_callbacks_t callbacks = callbacks_of(ear);
  for (int i = 0; i < 2; i++) parted[i] = subgroup_of(64);
  parted[0].shards = 2, parted[0].shard_members_min = 2, parted[1].senders_first = 1;
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, attr.flags = flags;
  attr.subgroups = parted, attr.subgroup_count = 2;
  callbacks.view = on_parts;
  memset(&seen, 0, sizeof seen);
  IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
  return group;
}

/* Of the second shard: its own message is heard by its two members, nothing else. */
static void parted_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = opened_parted(rank, rank == 9 ? SQUALL_FLAG_JOIN : 0, &ear);
  UNTIL(group, seen.members > 0);
  if (rank == 1) {
    SAYS(squall_send(group, 1, "x", 1), SQUALL_INADEQUATE, "subgroup 1", "shard_members_min");
    void *slot;
    SAYS(squall_reserve(group, 1, 1, &slot), SQUALL_INADEQUATE, "subgroup 1");
    SAYS(squall_send(group, 0, "x", 1), SQUALL_NOT_SENDER, "subgroup 0");
    SAYS(squall_send(group, 3, "x", 1), SQUALL_INVALID, "subgroup 3");
  }
  SAYS(squall_send(group, 2, "x", 1), SQUALL_NOT_SENDER, "subgroup 2");
  tell(out);
  UNTIL(group, seen.members == 4);
  int64_t ordinal = SQUALL_AGAIN;
  uint32_t mine = rank == 2 ? 0 : 1;
  UNTIL(group, ordinal == 0 || (ordinal = squall_send(group, mine, "mine", 4)) == 0);
  UNTIL(group, ear.heard == (rank == 9 ? 3 : 4)); /* two of the shard's, those of all */
  UNTIL(group, told(in));
  IS(squall_leave(group), SQUALL_OK);
  int status = 0;
  while (status >= 0) status = turn(group);
  IS(status, SQUALL_LEFT);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_shards(void)
{
  ear_t ear = {0};
  child_t children[3] = {start(parted_member, 1), start(parted_member, 2), {0}};
  squall_group_t group = opened_parted(0, 0, &ear);
  UNTIL(group, told(children[0].in) && told(children[1].in));
  IS(squall_send(group, 2, "all", 3), 0);
  IS(squall_send(group, 0, "mine", 4), 0);
  SAYS(squall_send(group, 1, "x", 1), SQUALL_NOT_SENDER, "subgroup 1");
  UNTIL(group, ear.heard == 2); /* the first shard goes on without the second */
  children[2] = start(parted_member, 9);
  UNTIL(group, seen.members == 4);
  UNTIL(group, told(children[2].in));
  IS(squall_send(group, 2, "late", 4), 1);
  UNTIL(group, ear.heard == 4);
  for (int i = 0; i < 3; i++) tell(children[i].out);
  UNTIL(group, seen.members == 1);
  SAYS(squall_send(group, 0, "x", 1), SQUALL_INADEQUATE, "start another");
  for (int i = 0; i < 3; i++) CHECK(reap(children[i]) == 0);
  IS(squall_group_close(group), SQUALL_OK);
}

/* What the place callback is to do, and what it has seen. */
static struct {
  int answer, value, calls, codes[3];
  squall_group_t group;
} placing;

static int on_place(void *user, const squall_roster_t *roster, uint8_t *places)
{
  CHECK(user != NULL && roster->size >= sizeof *roster && roster->reserved == 0);
  CHECK(roster->subgroup_count == 1 && roster->parts[0].of == 0 && roster->parts[0].lacks == 0);
  for (uint32_t i = 0; i < roster->member_count; i++) {
    const squall_candidate_t *member = &roster->members[i];
    CHECK(member->reserved == 0 && places[i] == SQUALL_PLACE_SENDER);
    CHECK(i == 0 || member->seniority > roster->members[i - 1].seniority);
    if (roster->members[0].incarnation == 0)
      CHECK(member->seat == i && member->incarnation == 0 && roster->before[i] == 0);
    else CHECK(member->incarnation != 0 && roster->before[i] == (i < 2 ? i + 1 : 0));
  }
  placing.calls++;
  if (placing.group != 0) {
    placing.codes[0] = squall_poll(placing.group, 1);
    placing.codes[1] = squall_group_close(placing.group);
    placing.codes[2] = squall_wait(placing.group, 0);
  }
  if (roster->member_count > 1) places[1] = (uint8_t)placing.value;
  return placing.answer;
}

static uint32_t placed_timeout_ms;

static int open_placed(uint32_t rank, uint32_t members, uint32_t flags, ear_t *ear,
                       squall_group_t *group)
{
  squall_group_attr_t attr = attr_of(rank, members);
  if (placed_timeout_ms > 0) attr.open_timeout_ms = placed_timeout_ms;
  squall_callbacks_t callbacks = callbacks_of(ear);
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, attr.flags = flags;
  callbacks.place = on_place;
  return squall_group_open(&attr, &callbacks, group);
}

static void placed_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group;
  placing.value = SQUALL_PLACE_MEMBER;
  int joins = rank == 9;
  IS(open_placed(rank, 2, joins ? SQUALL_FLAG_JOIN : 0, &ear, &group), SQUALL_OK);
  tell(out);
  int status = 0;
  while (status >= 0 && !told(in)) status = turn(group);
  IS(squall_leave(group), SQUALL_OK);
  while (status >= 0) status = turn(group);
  IS(status, SQUALL_LEFT);
  IS(squall_group_close(group), SQUALL_OK);
}

static void other_mind(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group;
  (void)in;
  placing.value = SQUALL_PLACE_SENDER, placed_timeout_ms = 300;
  tell(out);
  IS(open_placed(rank, 2, 0, &ear, &group), SQUALL_NOT_COMPLETE);
}

static void part_place(void)
{
  ear_t ear = {0};
  squall_group_t group = 77;
  memset(&placing, 0, sizeof placing);
  placing.answer = SQUALL_FAILED;
  SAYS(open_placed(0, 1, 0, &ear, &group), SQUALL_INVALID, "place answered -53");
  placing.answer = 0, placing.value = 3;
  SAYS(open_placed(0, 2, 0, &ear, &group), SQUALL_INVALID, "put 3", "rank 1", "subgroup 0");
  placing.value = 255;
  SAYS(open_placed(0, 2, 0, &ear, &group), SQUALL_INVALID, "put 255");
  CHECK(group == 77 && placing.calls == 3);
  placing.value = SQUALL_PLACE_MEMBER;
  int status;
  child_t child;
  do { /* until it is at its door */
    child = start(other_mind, 0);
    hear(child.in);
    placed_timeout_ms = 30;
    do status = open_placed(1, 2, 0, &ear, &group);
    while (status == SQUALL_NOT_COMPLETE && waitpid(child.pid, NULL, WNOHANG | WNOWAIT) == 0);
    if (status != SQUALL_NOT_COMPLETE) SAYS(status, SQUALL_MISMATCH, "founders_placed");
    CHECK(reap(child) == 0);
  } while (status == SQUALL_NOT_COMPLETE);
  placed_timeout_ms = 0;
  child = start(placed_member, 1);
  IS(open_placed(0, 2, 0, &ear, &group), SQUALL_OK);
  UNTIL(group, told(child.in));
  IS(squall_send(group, 0, "x", 1), 0);
  UNTIL(group, ear.heard == 1);
  placing.group = group, placing.calls = 0;
  child_t late = start(placed_member, 9);
  UNTIL(group, squall_group_members(group) == 3);
  CHECK(placing.calls >= 1);
  for (int i = 0; i < 3; i++) IS(placing.codes[i], SQUALL_REENTRANT);
  placing.group = 0;
  tell(late.out);
  UNTIL(group, squall_group_members(group) == 2);
  CHECK(reap(late) == 0);
  /* An answer that cannot be ends this member, in a sentence. */
  placing.answer = -1;
  tell(child.out);
  double until = now() + PATIENCE;
  status = 0;
  while (status >= 0 && now() < until) status = turn(group);
  IS(status, SQUALL_INVALID);
  CHECK(reap(child) == 0);
  IS(squall_group_close(group), SQUALL_OK);
}

/* How long the others have waited for which rank. */
static struct { uint32_t count, rank; uint64_t for_ns; } lagging;

static void on_lags(void *user, squall_group_t group, uint32_t subgroup, uint32_t rank,
                    uint64_t for_ns)
{
  (void)user, (void)group;
  CHECK(subgroup == 0);
  lagging.count++, lagging.rank = rank, lagging.for_ns = for_ns;
}

static squall_group_t opened_lagging(uint32_t rank, uint32_t lag, ear_t *ear)
{
  squall_group_t group = 0;
  squall_subgroup_attr_t subgroup = subgroup_of(64);
  squall_group_attr_t attr = attr_of(rank, 3);
  squall_callbacks_t callbacks = callbacks_of(ear);
  subgroup.window = 4, subgroup.lag = lag, subgroup.lag_ms = 20;
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, attr.suspicion_ms = 3600000;
  attr.subgroups = &subgroup, attr.subgroup_count = 1;
  callbacks.lags = on_lags, callbacks.view = on_view;
  memset(&seen, 0, sizeof seen), memset(&lagging, 0, sizeof lagging);
  IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
  return group;
}

/* Rank 2 stands still until it is told; the others are reported to, or go on without it. */
static void lagging_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  int status = 0;
  squall_group_t group = opened_lagging(rank, rank > 2 ? SQUALL_LAG_EVICT : SQUALL_LAG_REPORT, &ear);
  tell(out);
  if (rank == 2) hear(in);
  while (status >= 0 && (rank == 2 || !told(in))) status = turn(group);
  if (rank == 2) CHECK(status == SQUALL_EXPELLED || status == SQUALL_PARTITIONED);
  IS(squall_group_close(group), SQUALL_OK);
}

static void part_lag(void)
{
  for (int evict = 0; evict < 2; evict++) {
    ear_t ear = {0};
    child_t one = start(lagging_member, 1), two = start(lagging_member, 2);
    squall_group_t group =
      opened_lagging(0, evict ? SQUALL_LAG_EVICT : SQUALL_LAG_REPORT, &ear);
    UNTIL(group, told(one.in) && told(two.in));
    double until = now() + PATIENCE;
    while ((evict ? seen.members != 2 : lagging.for_ns < 40000000) && now() < until)
      (void)squall_send(group, 0, "again", 5), IS(squall_poll(group, 100) < 0, 0);
    if (evict) {
      CHECK(seen.members == 2 && seen.gone_status == SQUALL_PEER_LOST);
      CHECK(strstr(seen.gone_text, "without any progress") != NULL && lagging.count == 0);
    } else {
      CHECK(lagging.rank == 2 && lagging.for_ns >= 40000000 && seen.members == 3);
      IS(squall_report(group, seen.incarnations[2]), SQUALL_OK);
      UNTIL(group, seen.members == 2);
    }
    tell(two.out);
    CHECK(reap(two) == 0);
    tell(one.out);
    IS(squall_group_close(group), SQUALL_OK);
    CHECK(reap(one) == 0);
  }
}

static void part_peer_left(void)
{
  for (int own = 0; own < 2; own++) {
    ear_t ear = {0};
    squall_group_attr_t attr = attr_of(0, 2);
    child_t child = start(quiet_member, 1);
    if (own) attr.flags = SQUALL_FLAG_OWN_THREAD;
    squall_group_t group = opened(attr, &ear);
    hear(child.in);
    IS(squall_send(group, 0, "last words", 10), 0);
    if (!own) UNTIL(group, ear.heard == 1);
    tell(child.out);
    if (!own) {
      over(group, &ear, SQUALL_PEER_LEFT, 1);
    } else {
      double late = now() + PATIENCE;
      int64_t status = 0;
      while ((status >= 0 || status == SQUALL_AGAIN) && now() < late)
        status = squall_send(group, 0, "x", 1), sched_yield();
      IS(status, SQUALL_PEER_LEFT);
      IS(squall_poll(group, 1), SQUALL_OWN_THREAD);
      IS(squall_group_close(group), SQUALL_OK);
      CHECK(ear.stops == 1 && ear.stopped == SQUALL_PEER_LEFT && ear.stopped_rank == 1);
    }
    CHECK(reap(child) == 0);
  }
}

/* ---- parts: settings, and members on several hosts --------------------------------------------- */

static char settings[128]; /* the file of this part */

/* Writes a file, and answers its name. */
static const char *written(const char *suffix, mode_t mode, const char *text)
{
  static char path[128];
  snprintf(path, sizeof path, "/tmp/%s%s", name, suffix);
  int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  CHECK(file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text));
  CHECK(fchmod(file, mode) == 0 && close(file) == 0);
  return path;
}

static squall_group_attr_t fresh_attr(void)
{
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  return attr;
}

static int read_text(squall_group_attr_t *attr, const char *text)
{
  snprintf(settings, sizeof settings, "%s", written(".toml", 0600, text));
  return squall_group_attr_read(attr, settings);
}

static const char all_keys[] =
  "group = 'prices'\nrank = 2\nmembers = 3\nmembership = 'views'\nfabric = 'tcp'\nidle = 'spin'\n"
  "core = 5\nlock = 'require'\nhuge_pages = 'try'\nopen_timeout = '7s'\nliveness_every = '3us'\n"
  "suspicion = '0s'\n[network]\nlisten = ['10.0.0.1:7000', '[::1]:7001']\nadvertise = 'me:9'\n"
  "founders = ['a:1', 'b:2', 'c:3']\ncontacts = ['all:4']\nsecret_file = 'group.secret'\n"
  "host = 'left'\n[peers]\nusers = ['alice', 1002]\ngroup = 'crew'\ndirectory = '/run/prices'\n"
  "[transfer]\ncatchup = '1MiB'\ncatchup_max = '2MiB'\nrestarts_max = 0\npatience = '9s'\n"
  "[[subgroup]]\nname = 'orders'\nmembers = [0, 2]\nsenders = [2]\nlanes = 2\nwindow = 64\n"
  "window_bytes = '1MiB'\nmessage_bytes_max = '4KiB'\nlag = 'evict:2s'\n"
  "[[subgroup]]\nname = 'quotes'\nmode = 'received'\nsenders = []\nshards = 2\nmembers_min = 1\n"
  "members_max = 2\nlag = 'report:5ms'\n[[subgroup]]\nsenders_first = 1\n";

/* Every key has its field. */
static void reads_all_keys(void)
{
  squall_group_attr_t attr = fresh_attr();
  IS(read_text(&attr, all_keys), SQUALL_OK);
  CHECK(attr.size == sizeof attr && strcmp(attr.name, "prices") == 0);
  CHECK(attr.rank == 2 && attr.members == 3 && attr.membership == SQUALL_MEMBERSHIP_VIEWS);
  CHECK(attr.fabric == SQUALL_FABRIC_TCP && attr.idle == SQUALL_IDLE_SPIN && attr.core == 5);
  CHECK(attr.flags == (SQUALL_FLAG_PIN | SQUALL_FLAG_LOCK | SQUALL_FLAG_REQUIRE_LOCK
                       | SQUALL_FLAG_HUGE));
  CHECK(attr.open_timeout_ms == 7000 && attr.liveness_every_ns == 3000);
  CHECK(attr.suspicion_ms == SQUALL_SUSPICION_NEVER && attr.launcher == SQUALL_LAUNCHER_NONE);
  CHECK(strcmp(attr.listen, "10.0.0.1:7000,[::1]:7001") == 0 && strcmp(attr.advertise, "me:9") == 0);
  CHECK(strcmp(attr.founders, "a:1,b:2,c:3") == 0 && strcmp(attr.contacts, "all:4") == 0);
  CHECK(strcmp(attr.secret_file, "group.secret") == 0 && attr.secret_fd == 0);
  CHECK(strcmp(attr.peers_users, "alice,1002") == 0 && strcmp(attr.peers_group, "crew") == 0);
  CHECK(strcmp(attr.peers_directory, "/run/prices") == 0 && strcmp(attr.host, "left") == 0);
  CHECK(attr.transfer && attr.transfer->size == sizeof *attr.transfer);
  CHECK(attr.transfer->catchup_bytes == 1 << 20 && attr.transfer->catchup_bytes_max == 2 << 20);
  CHECK(attr.transfer->restarts_max == SQUALL_RESTARTS_NONE && attr.transfer->patience_ms == 9000);
  CHECK(attr.subgroup_count == 3);
  const squall_subgroup_attr_t *one = attr.subgroups, *two = one + 1, *three = one + 2;
  CHECK(one->size == sizeof *one && strcmp(one->name, "orders") == 0 && one->member_count == 2);
  CHECK(one->members[0] == 0 && one->members[1] == 2 && one->senders[0] == 2);
  CHECK(one->sender_count == 1 && one->lanes == 2 && one->window == 64);
  CHECK(one->window_bytes == 1 << 20 && one->message_bytes_max == 4096);
  CHECK(one->mode == SQUALL_MODE_STABLE && one->lag == SQUALL_LAG_EVICT && one->lag_ms == 2000);
  CHECK(two->mode == SQUALL_MODE_RECEIVED && two->members == NULL && two->senders != NULL);
  CHECK(two->sender_count == 0 && two->shards == 2 && two->shard_members_min == 1);
  CHECK(two->shard_members_max == 2 && two->lag == SQUALL_LAG_REPORT && two->lag_ms == 5);
  CHECK(three->senders_first == 1 && three->name == NULL && three->lag == SQUALL_LAG_WAIT);

  /* What comes later wins, key by key; what it does not say stays, and stays where it is. */
  IS(read_text(&attr, "group = 'other'\njoin = true\nlock = 'no'\nlauncher = 'slurm'\n"
                      "[network]\nsecret_fd = 0\n[transfer]\nrestarts_max = 4\n"
                      "[peers]\nusers = []\ngroup = 7\n"), SQUALL_OK);
  CHECK(strcmp(attr.name, "other") == 0 && attr.members == 3 && attr.subgroup_count == 3);
  CHECK(attr.flags == (SQUALL_FLAG_PIN | SQUALL_FLAG_HUGE | SQUALL_FLAG_JOIN
                       | SQUALL_FLAG_SECRET_FD));
  CHECK(attr.secret_file == NULL && strcmp(attr.founders, "a:1,b:2,c:3") == 0);
  CHECK(attr.peers_users == NULL && strcmp(attr.peers_group, "7") == 0);
  CHECK(strcmp(attr.peers_directory, "/run/prices") == 0 && strcmp(attr.host, "left") == 0);
  CHECK(attr.launcher == SQUALL_LAUNCHER_SLURM && attr.subgroups == one);
  CHECK(attr.transfer->restarts_max == 4 && attr.transfer->patience_ms == 9000);
  squall_group_attr_free(&attr);
  CHECK(attr.size == sizeof attr && attr.name == NULL && attr.owned == NULL && attr.flags == 0);
  squall_group_attr_free(&attr); /* there is nothing more */
  squall_group_attr_free(NULL);
  IS(squall_group_attr_read(&attr, NULL), SQUALL_OK); /* no file, and nothing in the environment */
  CHECK(attr.name == NULL && attr.members == 0 && attr.subgroups == NULL);
  squall_group_attr_free(&attr);
}

/* What the program sets first, the file, the environment, what it sets last. */
static void reads_in_order(void)
{
  squall_subgroup_attr_t mine[2] = {subgroup_of(64), subgroup_of(128)};
  squall_group_attr_t attr = fresh_attr();
  attr.idle = SQUALL_IDLE_YIELD, attr.members = 1, attr.open_timeout_ms = 5;
  attr.subgroups = mine, attr.subgroup_count = 2;
  attr.flags = SQUALL_FLAG_LOCK | SQUALL_FLAG_HUGE | SQUALL_FLAG_REQUIRE;
  setenv("SQUALL_RANK", "2", 1);
  setenv("SQUALL_NETWORK__FOUNDERS", "x:1, y:2", 1);
  setenv("SQUALL_SUBGROUP__1__WINDOW", "32", 1);
  IS(read_text(&attr, "group = 'g'\nrank = 1\nmembers = 4\nhuge_pages = 'no'\nfabric = 'auto'\n"),
     SQUALL_OK);
  CHECK(attr.idle == SQUALL_IDLE_YIELD && attr.open_timeout_ms == 5);
  CHECK(attr.members == 4 && attr.rank == 2 && strcmp(attr.founders, "x:1,y:2") == 0);
  CHECK(attr.fabric == SQUALL_FABRIC_AUTO && attr.membership == SQUALL_MEMBERSHIP_VIEWS);
  CHECK(attr.subgroup_count == 2 && attr.subgroups[0].message_bytes_max == 64);
  CHECK(attr.subgroups[1].message_bytes_max == 128 && attr.subgroups[1].window == 32);
  CHECK(attr.flags == (SQUALL_FLAG_LOCK | SQUALL_FLAG_REQUIRE_LOCK) && mine[1].window == 0);
  setenv("SQUALL_RNAK", "2", 1);
  squall_group_attr_t before = attr;
  SAYS(squall_group_attr_read(&attr, NULL), SQUALL_INVALID, "SQUALL_RNAK", "SQUALL_RANK?");
  CHECK(memcmp(&before, &attr, sizeof attr) == 0); /* as it was */
  unsetenv("SQUALL_RNAK"), unsetenv("SQUALL_RANK");
  unsetenv("SQUALL_NETWORK__FOUNDERS"), unsetenv("SQUALL_SUBGROUP__1__WINDOW");

  /* Whom to meet, and where: what is read decides when the group is opened. */
  ear_t ear = {0};
  squall_group_t group = 0;
  char text[256];
  squall_group_attr_free(&attr);
  snprintf(text, sizeof text, "group = '%s'\nmembers = 1\npeers.users = ['no such user']\n", name);
  IS(read_text(&attr, text), SQUALL_OK);
  SAYS(open_with(attr, &ear, &group), SQUALL_INVALID, "`peers.users`", "no user \"no such user\"");
  IS(read_text(&attr, "peers.users = []\npeers.group = 'no such group'\n"), SQUALL_OK);
  SAYS(open_with(attr, &ear, &group), SQUALL_INVALID, "`peers.group`", "no group \"no such group\"");
  char directory[] = "/tmp/squall-capi-XXXXXX";
  CHECK(mkdtemp(directory) != NULL);
  snprintf(text, sizeof text, "[peers]\ngroup = ''\ndirectory = '%s'\n", directory);
  IS(read_text(&attr, text), SQUALL_OK);
  IS(open_with(attr, &ear, &group), SQUALL_OK);
  CHECK(rmdir(directory) != 0 && errno == ENOTEMPTY); /* its socket is there */
  IS(squall_group_close(group), SQUALL_OK);
  CHECK(rmdir(directory) == 0);
  SAYS(open_with(attr, &ear, &group), SQUALL_SYSTEM, "`peers.directory`", directory);

  /* What was read is copied by open, as everything is. */
  squall_group_attr_free(&attr);
  snprintf(text, sizeof text, "group = '%s'\nrank = 0\n[[subgroup]]\nmessage_bytes_max = 8\n", name);
  attr.rank = 7, attr.members = 1;
  IS(read_text(&attr, text), SQUALL_OK);
  IS(open_with(attr, &ear, &group), SQUALL_OK);
  squall_group_attr_free(&attr);
  SAYS(squall_send(group, 0, "123456789", 9), SQUALL_TOO_LONG, "largest is 8");
  IS(squall_send(group, 0, "12345678", 8), 0);
  UNTIL(group, ear.heard == 1);
  IS(squall_group_close(group), SQUALL_OK);
}

static void read_inside(ear_t *ear, squall_group_t group)
{
  squall_group_attr_t attr = fresh_attr();
  (void)group;
  ear->codes[0] = squall_group_attr_read(&attr, settings);
  ear->codes[1] = attr.members;
  squall_group_attr_free(&attr);
}

static void part_read(void)
{
  squall_group_attr_t attr = fresh_attr(), before = attr;
#define UNREADABLE(text, ...) SAYS(read_text(&attr, text), SQUALL_INVALID, __VA_ARGS__)
  UNREADABLE("group = 'g'\n\nrnak = 1", ".toml:3", "`rnak`", "did you mean `rank`");
  UNREADABLE("[[subgroup]]\nwindw = 1", ".toml:2", "`window`");
  UNREADABLE("rank = 'x'", ".toml:1", "rank", "0 to 63");
  UNREADABLE("rank = \n", ".toml:1");
  UNREADABLE("suspicion = '1500us'", ".toml:1", "whole milliseconds");
  UNREADABLE("group = 'a/b'", ".toml:1", "group", "letters");
  UNREADABLE("peers.group = \"a\\u0000b\"", "peers.group", "zero byte");
  UNREADABLE("peers.users = ['a,b']", "peers.users", "comma");
  UNREADABLE("join = true\nrank = 1", ".toml:1", "`join`", "`rank`", ".toml:2");
  UNREADABLE("[network]\nsecret_fd = 3\nsecret_file = 'x'", "one secret");
#undef UNREADABLE
  SAYS(squall_group_attr_read(&attr, "/nowhere/squall.toml"), SQUALL_SYSTEM, "/nowhere/squall.toml",
       "squall config --example");
  SAYS(squall_group_attr_read(&attr, "/"), SQUALL_SYSTEM, "directory");
  SAYS(squall_group_attr_read(NULL, NULL), SQUALL_INVALID, "attr", "NULL");
  CHECK(memcmp(&before, &attr, sizeof attr) == 0);
  const uint32_t before_peers = offsetof(squall_group_attr_t, peers_users);
  const struct { uint32_t size; size_t room; int tail, expected; } cases[] = {
    {0, 4, 0, SQUALL_WRONG_SIZE},
    {64, 64, 0, SQUALL_WRONG_SIZE}, /* of a version without room for it */
    {before_peers - 1, before_peers - 1, 0, SQUALL_WRONG_SIZE},
    {before_peers, before_peers, 0, SQUALL_OK},
    {sizeof attr, sizeof attr, 0, SQUALL_OK},
    {256, 256, 0, SQUALL_OK},
    {256, 256, 1, SQUALL_WRONG_SIZE},
    {UINT32_MAX, 64, 0, SQUALL_WRONG_SIZE},
  };
  written(".toml", 0600, "group = 'g'\nmembers = 3\n");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    squall_group_attr_t *copy =
      resized(&attr, sizeof attr, cases[i].size, cases[i].room, cases[i].tail);
    int status = squall_group_attr_read(copy, settings);
    IS(status, cases[i].expected);
    if (status == SQUALL_OK) CHECK(copy->members == 3 && copy->size == cases[i].size);
    else SAYS(status, SQUALL_WRONG_SIZE, "size");
    squall_group_attr_free(copy); /* does nothing where nothing was read */
    free(copy);
  }
  const char *later[] = {"peers.users", "peers.group", "peers.directory", "network.host"};
  for (uint32_t i = 0; i < 4; i++) { /* a key whose field is not there is no key that is passed over */
    char text[64];
    snprintf(text, sizeof text, "%s = %s\n", later[i], i == 0 ? "['a']" : "'a'");
    written(".toml", 0600, text);
    uint32_t size = before_peers + i * (uint32_t)sizeof(char *);
    squall_group_attr_t *copy = resized(&attr, sizeof attr, size, size, 0);
    SAYS(squall_group_attr_read(copy, settings), SQUALL_WRONG_SIZE, later[i], "older squall.h");
    squall_group_attr_free(copy);
    free(copy);
  }
  written(".toml", 0600, "group = 'g'\nmembers = 3\n");
  ear_t ear = {0}; /* it has nothing to do with the group whose callback runs */
  ear.inside = read_inside;
  squall_group_t group = opened(attr_of(0, 1), &ear);
  IS(squall_send(group, 0, "x", 1), 0);
  UNTIL(group, ear.heard == 1);
  IS(ear.codes[0], SQUALL_OK);
  CHECK(ear.codes[1] == 3);
  IS(squall_group_close(group), SQUALL_OK);
  reads_all_keys();
  reads_in_order();
  unlink(settings);
}

/* A port of this host that nobody has now. */
static int free_port(void)
{
  struct sockaddr_in at = {0};
  socklen_t len = sizeof at;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  at.sin_family = AF_INET, at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(bind(fd, (struct sockaddr *)&at, len) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&at, &len) == 0 && close(fd) == 0);
  return ntohs(at.sin_port);
}

static char founders[64], secret[128];
static int by_descriptor; /* how the second member gets its secret, and everything else */

static const char good_secret[] = "2f6c1e0b9a8d7c5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e\n";

/* A member on another host, as far as it can tell. */
static void far_member(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_t group = 0;
  squall_group_attr_t attr = fresh_attr();
  int ends[2], status = SQUALL_OK;
  if (by_descriptor && rank == 1) { /* all by hand */
    attr = attr_of(rank, 2);
    attr.fabric = SQUALL_FABRIC_TCP, attr.membership = SQUALL_MEMBERSHIP_VIEWS;
    attr.founders = founders, attr.flags = SQUALL_FLAG_TRUSTED_NETWORK;
    if (!getenv("CAPI_TRUSTS")) {
      CHECK(pipe(ends) == 0 && write(ends[1], good_secret, 65) == 65 && close(ends[1]) == 0);
      attr.flags = SQUALL_FLAG_SECRET_FD, attr.secret_fd = ends[0];
    }
    attr.advertise = strchr(founders, ',') + 1;
  } else { /* the same file for those who found and those who join */
    if (rank == 9) setenv("SQUALL_JOIN", "true", 1), setenv("SQUALL_NETWORK__LISTEN", "127.0.0.1:0", 1);
    else setenv("SQUALL_RANK", rank == 1 ? "1" : "0", 1);
    status = squall_group_attr_read(&attr, settings);
  }
  IS(status, SQUALL_OK);
  IS(open_with(attr, &ear, &group), SQUALL_OK);
  if (attr.flags & SQUALL_FLAG_SECRET_FD) CHECK(close(attr.secret_fd) == 0); /* it is still mine */
  squall_group_attr_free(&attr);
  tell(out);
  IS(squall_send(group, 0, "from afar", 9), 0);
  for (status = 0; status >= 0 && !told(in);) status = turn(group);
  IS(squall_leave(group), SQUALL_OK);
  while (status >= 0) status = turn(group);
  IS(status, SQUALL_LEFT);
  IS(squall_group_close(group), SQUALL_OK);
}

/* Two that found a group over TCP, and a third one that joins, with one file for all. */
static void they_meet(void)
{
  ear_t ear = {0};
  char text[512], second[80];
  child_t one = start(far_member, 1);
  squall_group_t group = 0;
  squall_group_attr_t attr = fresh_attr();
  squall_callbacks_t callbacks = callbacks_of(&ear);
  callbacks.view = on_view;
  memset(&seen, 0, sizeof seen);
  IS(squall_group_attr_read(&attr, settings), SQUALL_OK);
  IS(squall_group_open(&attr, &callbacks, &group), SQUALL_OK);
  hear(one.in);
  IS(squall_send(group, 0, "near", 4), 0);
  UNTIL(group, ear.heard == 2);
  child_t late = start(far_member, 9);
  UNTIL(group, seen.members == 3 && ear.heard == 3);
  hear(late.in);
  tell(late.out);
  UNTIL(group, seen.members == 2);
  CHECK(reap(late) == 0);
  tell(one.out);
  UNTIL(group, seen.members == 1);
  CHECK(reap(one) == 0);
  /* A port that is taken, or a secret that is none, is said at once: the others are not waited for. */
  squall_group_t none = 77;
  squall_group_attr_t other = attr;
  snprintf(second, sizeof second, "%s-2", name);
  other.name = second;
  other.flags &= ~(uint32_t)SQUALL_FLAG_TRUSTED_NETWORK, other.secret_file = secret;
  SAYS(open_with(other, &ear, &none), SQUALL_IN_USE, "listen");
  other.founders = "127.0.0.1:0,127.0.0.1:1";
  other.secret_file = written(".weak", 0600, "hunter2hunter2\n");
  SAYS(open_with(other, &ear, &none), SQUALL_INVALID, ".weak", "squall secret");
  squall_last_error(text, sizeof text);
  CHECK(strstr(text, "hunter2") == NULL); /* it is never shown */
  other.secret_file = written(".weak", 0644, good_secret);
  SAYS(open_with(other, &ear, &none), SQUALL_INVALID, ".weak", "chmod 600");
  unlink(other.secret_file);
  SAYS(open_with(other, &ear, &none), SQUALL_SYSTEM, ".weak");
  CHECK(none == 77);
  squall_group_attr_free(&attr);
  IS(squall_group_close(group), SQUALL_OK);
}

static void task(uint32_t rank, int in, int out)
{
  ear_t ear = {0};
  squall_group_attr_t attr = attr_of(0, 0);
  (void)in;
  setenv("SLURM_PROCID", rank == 1 ? "1" : "0", 1), setenv("SLURM_NTASKS", "2", 1);
  setenv("SLURM_JOB_NODELIST", "localhost", 1), setenv("SLURM_TASKS_PER_NODE", "2", 1);
  attr.launcher = SQUALL_LAUNCHER_SLURM;
  squall_group_t group = opened(attr, &ear);
  IS(squall_group_rank(group), (int)rank);
  IS(squall_group_members(group), 2);
  IS(squall_send(group, 0, "task", 4), 0);
  UNTIL(group, ear.heard == 2);
  tell(out);
  hear(in);
  IS(squall_group_close(group), SQUALL_OK);
}

/* With CAPI_TRUSTS nothing is sealed: memcheck takes what comes out of AES instructions for bytes that
   nobody has written. */
static void part_hosts(void)
{
  char text[512], key[160];
  for (by_descriptor = 0; by_descriptor < 2; by_descriptor++) {
    snprintf(founders, sizeof founders, "127.0.0.1:%d,127.0.0.1:%d", free_port(), free_port());
    snprintf(secret, sizeof secret, "%s", written(".secret", 0600, good_secret));
    char *second = strchr(founders, ',');
    *second = 0;
    snprintf(key, sizeof key, "secret_file = '%s'", secret);
    snprintf(text, sizeof text,
             "group = '%s'\nmembers = 2\nfabric = 'tcp'\nopen_timeout = '60s'\n[network]\n"
             "founders = ['%s', '%s']\n%s\n", name, founders, second + 1,
             getenv("CAPI_TRUSTS") ? "trusted_network = true" : key);
    *second = ',';
    snprintf(settings, sizeof settings, "%s", written(".toml", 0600, text));
    they_meet();
  }
  unlink(settings), unlink(secret);
  child_t one = start(task, 1), two = start(task, 0); /* a job of two tasks on one node */
  hear(one.in), hear(two.in);
  tell(one.out), tell(two.out);
  CHECK(reap(one) == 0 && reap(two) == 0);
}

/* ---- all of it ------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
  const struct { const char *name; void (*run)(void); } parts[] = {
    {"versions", part_versions},         {"statuses", part_statuses},
    {"no_handle", part_no_handle},       {"last_error", part_last_error},
    {"closed", part_closed},             {"arguments", part_arguments},
    {"sizes", part_sizes},               {"send", part_send},
    {"batch", part_batch},
    {"reserve", part_reserve},           {"callbacks", part_callbacks},
    {"early_callback", part_early_callback}, {"pages", part_pages},
    {"own_thread", part_own_thread},     {"idle", part_idle},
    {"threads", part_threads},           {"stats", part_stats},
    {"limit", part_limit},               {"in_use", part_in_use},
    {"foreign_owner", part_foreign_owner}, {"one_process", part_one_process},
    {"fork", part_fork},
    {"mismatch", part_mismatch},         {"not_complete", part_not_complete},
    {"peer_lost", part_peer_lost},       {"peer_left", part_peer_left},
    {"views", part_views},               {"shards", part_shards},
    {"place", part_place},               {"lag", part_lag},
    {"read", part_read},                 {"hosts", part_hosts},
    {"memory", part_memory},
  };
  int failed = 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    int chosen = argc == 1;
    for (int k = 1; k < argc; k++) chosen |= strcmp(argv[k], parts[i].name) == 0;
    if (!chosen) continue;
    double start = now();
    failures = 0;
    snprintf(name, sizeof name, "capi-%d-%s", (int)getpid(), parts[i].name);
    parts[i].run();
    printf("%-6s %-14s %6.3f s\n", failures ? "FAILED" : "ok", parts[i].name, now() - start);
    failed |= failures;
  }
  return failed != 0;
}
