/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * failover.c - a member dies, the others go on: three members send all the time, the parent kills
 * one, and the other two, in a next view, agree on every message before and after it.
 *
 *   cc failover.c $(pkg-config --cflags --libs squall) -o failover && ./failover demo
 */
#define _DEFAULT_SOURCE
#include <signal.h>
#include <squall.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
enum { MEMBERS = 3, AFTER = 10000 };
typedef struct { uint64_t hash, heard; int parent; } seen_t;
/* After the last message of one view, before the first of the next: at all its members alike. */
static void on_view(void *user, squall_group_t group, const squall_view_t *view)
{
  (void)group;
  if (view->departed_count && view->member_count == 2) ((seen_t *)user)->heard = 0;
  for (uint32_t i = 0; i < view->departed_count; i++)
    printf("seat %u: in view %d there are %u; seat %u is gone, %s\n", view->members[view->rank].seat,
           (int)view->epoch, view->member_count, view->departed[i].seat, view->departed[i].text);
}

static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  seen_t *seen = (seen_t *)user; /* ranks are those of the view; the bytes say who it was in all */
  uint64_t ready = 0, is_second = squall_group_members(group) < MEMBERS;
  (void)subgroup;
  if (is_second && seen->heard >= AFTER) return;
  seen->hash = (seen->hash ^ *(const uint64_t *)message->bytes) * 0x100000001b3;
  if (++seen->heard == 1 && !is_second) (void)!write(seen->parent, &ready, sizeof ready);
  if (is_second && seen->heard == AFTER) squall_leave(group); /* poll on until SQUALL_LEFT */
}

static int member(const char *name, uint32_t rank, int parent)
{
  seen_t seen = {0xcbf29ce484222325, 0, parent};
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = name, attr.rank = rank, attr.members = MEMBERS;
  attr.membership = SQUALL_MEMBERSHIP_VIEWS; /* others could join: SQUALL_FLAG_JOIN */
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.message = on_message, callbacks.view = on_view, callbacks.user = &seen;
  squall_group_t group = 0;
  int status = squall_group_open(&attr, &callbacks, &group);
  for (uint64_t sent = (uint64_t)rank << 48; status >= 0;) { /* AGAIN while views change, too */
    while (squall_send(group, 0, &sent, sizeof sent) >= 0) sent++;
    if ((status = squall_poll(group, UINT32_MAX)) == 0) status = squall_wait(group, 1000);
  }
  if (status != SQUALL_LEFT) fprintf(stderr, "seat %u: %s\n", rank, squall_status_text(status));
  squall_group_close(group);
  return status != SQUALL_LEFT || write(parent, &seen.hash, sizeof seen.hash) < 0;
}

int main(int argc, char **argv)
{
  int ends[2], failed = 0;
  pid_t members[MEMBERS];
  uint64_t said[MEMBERS + 2] = {0};
  if (argc != 2 || pipe(ends)) return puts("usage: failover NAME"), 2;
  for (uint32_t rank = 0; rank < MEMBERS; rank++)
    if ((members[rank] = fork()) == 0) return member(argv[1], rank, ends[1]);
  close(ends[1]);
  for (int at = 0; at < MEMBERS + 2; at++) { /* all are at work; then what the two have seen */
    if (at == MEMBERS) kill(members[1], SIGKILL);
    if (read(ends[0], &said[at], sizeof said[at]) != sizeof said[at]) return puts("no word"), 1;
  }
  for (int rank = 0, status; rank < MEMBERS; rank++)
    failed |= waitpid(members[rank], &status, 0) < 0 || (rank != 1 && status != 0);
  puts(said[MEMBERS] == said[MEMBERS + 1] ? "the two others agree" : "the two others DIFFER");
  return failed || said[MEMBERS] != said[MEMBERS + 1];
}
