/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * kv.c - a replicated key-value store: every member has all of it, and whoever joins gets it.
 *
 *   cc kv.c $(pkg-config --cflags --libs squall) -o kv
 *   ./kv demo 0 3            in three terminals: ./kv demo 0 3, ./kv demo 1 3, ./kv demo 2 3
 *   ./kv demo join 3         in one more, at any time: it joins with what the others have
 *
 * Lines: `KEY VALUE` sets, `KEY` shows, `-KEY` removes, `?` says how much there is; the end of the
 * input leaves. Kill any member: the others go on, as long as most of them are there.
 *
 * A change is a message, and the store changes only when the message comes back: so all members
 * change theirs in the same order. The state that a joiner gets is a copy of the table, made
 * between two messages; what is changed while it travels comes after it, as messages.
 */
#include <errno.h>
#include <poll.h>
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX 64
#define SLOTS (1u << 16) /* open addressing; a power of two */

/* Also what a message and a state are made of: fixed in size, the same on all members. */
typedef struct entry {
  char key[TEXT_MAX];   /* "": a free slot */
  char value[TEXT_MAX]; /* in a message, "": remove the key */
} entry;

typedef struct store {
  entry *table;    /* SLOTS of them */
  uint32_t used;   /* keys that were ever set: a removed one keeps its slot, with no value */
  uint64_t loaded; /* bytes of a state that comes */
  uint64_t caught_up;
  int members; /* of the view; 0: none yet */
} store;

static int failed(const char *what, int status)
{
  char why[256] = "";
  squall_last_error(why, sizeof why);
  fprintf(stderr, "kv: %s: %s (%d) %s\n", what, squall_status_text(status), status, why);
  return EXIT_FAILURE;
}

/* The slot of a key, or the free one where it belongs. */
static entry *slot_of(const store *kv, const char *key)
{
  uint32_t at = 2166136261u;
  for (const char *c = key; *c; c++) at = (at ^ (unsigned char)*c) * 16777619u;
  while (kv->table[at % SLOTS].key[0] && strcmp(kv->table[at % SLOTS].key, key) != 0) at++;
  return &kv->table[at % SLOTS];
}

static void apply(store *kv, const entry *change)
{
  entry *slot = slot_of(kv, change->key);
  if (!slot->key[0]) {
    if (!change->value[0] || kv->used == SLOTS - 1) return; /* full: at all members alike */
    kv->used++;
  }
  *slot = *change;
}

/* ---- what the group calls ------------------------------------------------------------------- */

/* A change, in the order of all changes. With SQUALL_MESSAGE_CATCHUP it comes after a state. */
static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  store *kv = (store *)user;
  (void)group, (void)subgroup;
  if (message->len == sizeof(entry)) apply(kv, (const entry *)message->bytes);
  if (message->flags & SQUALL_MESSAGE_CATCHUP) kv->caught_up++;
}

static void on_view(void *user, squall_group_t group, const squall_view_t *view)
{
  (void)group;
  ((store *)user)->members = (int)view->member_count;
  printf("view %llu: %u members, I am rank %u\n", (unsigned long long)view->epoch,
         (unsigned)view->member_count, (unsigned)view->rank);
}

/* A copy of the table, and how far it is read. Making it is all that the group waits for: 8 MiB,
 * some milliseconds. A larger store forks a child that writes to a pipe, or keeps versions. */
typedef struct checkpoint {
  uint64_t read;
  entry table[SLOTS];
} checkpoint;

static int on_checkpoint_open(void *user, squall_group_t group, const squall_version_t *version,
                              void **given)
{
  checkpoint *copy = (checkpoint *)malloc(sizeof *copy);
  (void)group, (void)version;
  if (!copy) return SQUALL_NO_MEMORY; /* the joiner asks another member */
  copy->read = 0;
  memcpy(copy->table, ((store *)user)->table, sizeof copy->table);
  *given = copy;
  return SQUALL_OK;
}

/* On another thread, while the store goes on. */
static int64_t on_checkpoint_read(void *user, void *given, void *place, uint32_t len)
{
  checkpoint *copy = (checkpoint *)given;
  uint64_t rest = sizeof copy->table - copy->read;
  (void)user;
  if (len > rest) len = (uint32_t)rest;
  memcpy(place, (const char *)copy->table + copy->read, len);
  copy->read += len;
  return len;
}

static void on_checkpoint_close(void *user, void *given)
{
  (void)user;
  free(given);
}

/* The joiner's side: the table as it was; begun anew if the member that sends it fails. */
static int on_state(void *user, squall_group_t group, uint32_t what, const void *bytes,
                    uint32_t len)
{
  store *kv = (store *)user;
  (void)group;
  switch (what) {
  case SQUALL_STATE_BEGIN:
    kv->loaded = 0;
    kv->caught_up = 0;
    break;
  case SQUALL_STATE_CHUNK:
    if (len > SLOTS * sizeof(entry) - kv->loaded) return SQUALL_INVALID;
    memcpy((char *)kv->table + kv->loaded, bytes, len);
    kv->loaded += len;
    break;
  case SQUALL_STATE_LOADED:
    if (kv->loaded != SLOTS * sizeof(entry)) return SQUALL_INVALID;
    kv->used = 0;
    for (uint32_t at = 0; at < SLOTS; at++) kv->used += kv->table[at].key[0] != 0;
    break;
  }
  return SQUALL_OK;
}

/* ---- the program ---------------------------------------------------------------------------- */

static void report(const store *kv)
{
  uint32_t keys = 0, sum = 0;
  for (uint32_t at = 0; at < SLOTS; at++) {
    const entry *slot = &kv->table[at];
    uint32_t check = 2166136261u;
    if (!slot->value[0]) continue;
    for (const char *c = slot->key; *c; c++) check = (check ^ (unsigned char)*c) * 16777619u;
    for (const char *c = slot->value; *c; c++) check = (check ^ (unsigned char)*c) * 16777619u;
    keys++;
    sum += check;
  }
  printf("%u keys, checksum %08x, %d members, %llu changes caught up\n", (unsigned)keys,
         (unsigned)sum, kv->members, (unsigned long long)kv->caught_up);
}

/* Does what a line says; a negative status, or what is to be sent again (SQUALL_AGAIN). */
static int obey(squall_group_t group, store *kv, char *line)
{
  entry change;
  memset(&change, 0, sizeof change);
  char *key = strtok(line, " \n"), *value = key ? strtok(NULL, "\n") : NULL;
  if (!key) return SQUALL_OK;
  if (strcmp(key, "?") == 0) return report(kv), SQUALL_OK;
  int removes = key[0] == '-' && !value;
  key += removes;
  if (!*key || strlen(key) >= TEXT_MAX || (value && strlen(value) >= TEXT_MAX)) {
    printf("keys and values have 1 to %d characters\n", TEXT_MAX - 1);
    return SQUALL_OK;
  }
  if (!value && !removes) {
    const entry *slot = slot_of(kv, key);
    printf("%s %s\n", key, slot->value[0] ? slot->value : "(none)");
    return SQUALL_OK;
  }
  strcpy(change.key, key);
  if (value) strcpy(change.value, value);
  return squall_send(group, 0, &change, sizeof change) < 0 ? SQUALL_AGAIN : SQUALL_OK;
}

int main(int argc, char **argv)
{
  store kv;
  memset(&kv, 0, sizeof kv);
  if (argc != 4) return fprintf(stderr, "usage: kv NAME RANK|join MEMBERS\n"), EXIT_FAILURE;
  kv.table = (entry *)calloc(SLOTS, sizeof *kv.table);
  if (!kv.table) return EXIT_FAILURE;
  setvbuf(stdout, NULL, _IOLBF, 0);

  squall_subgroup_attr_t all;
  squall_subgroup_attr_init(&all, sizeof all);
  all.message_bytes_max = sizeof(entry);
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = argv[1];
  attr.members = (uint32_t)atoi(argv[3]);
  attr.membership = SQUALL_MEMBERSHIP_VIEWS;
  attr.subgroups = &all;
  attr.subgroup_count = 1;
  if (strcmp(argv[2], "join") == 0) attr.flags = SQUALL_FLAG_JOIN;
  else attr.rank = (uint32_t)atoi(argv[2]);
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.user = &kv;
  callbacks.message = on_message;
  callbacks.view = on_view;
  callbacks.checkpoint_open = on_checkpoint_open;
  callbacks.checkpoint_read = on_checkpoint_read;
  callbacks.checkpoint_close = on_checkpoint_close;
  callbacks.state_load = on_state;

  squall_group_t group = 0;
  int status = squall_group_open(&attr, &callbacks, &group);
  if (status != SQUALL_OK) return failed("cannot open the group", status);

  /* Standard input and the group, in one loop. A line that finds no room waits in `line`. */
  char text[2][4096];
  size_t have = 0;
  int waits = 0, leaving = 0;
  while ((status = squall_poll(group, UINT32_MAX)) >= 0) {
    char *end = (char *)memchr(text[0], '\n', have);
    if (waits || end) {
      if (!waits) {
        size_t len = (size_t)(end - text[0]) + 1;
        memcpy(text[1], text[0], len);
        text[1][len - 1] = 0;
        memmove(text[0], text[0] + len, have -= len);
      }
      char copy[4096];
      memcpy(copy, text[1], sizeof copy);
      waits = obey(group, &kv, copy) == SQUALL_AGAIN;
      continue;
    }
    if (status > 0 || squall_arm(group) != SQUALL_OK) continue; /* there may be more */
    struct pollfd ready[2] = {{squall_fd(group), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    poll(ready, leaving ? 1 : 2, 100);
    if (leaving || !(ready[1].revents & (POLLIN | POLLHUP))) continue;
    ssize_t got = read(STDIN_FILENO, text[0] + have, sizeof text[0] - have);
    if (got > 0) have += (size_t)got;
    else if (got == 0 || errno != EINTR) leaving = squall_leave(group) == SQUALL_OK;
    if (have == sizeof text[0] && !memchr(text[0], '\n', have)) have = 0; /* no line is that long */
  }
  if (status != SQUALL_LEFT) failed("the group has stopped", status);
  squall_group_close(group); /* and nobody reads a checkpoint any more */
  free(kv.table);
  return status == SQUALL_LEFT ? EXIT_SUCCESS : EXIT_FAILURE;
}
