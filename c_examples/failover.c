/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * failover.c - a member dies and the others go on: of three that send all the time one is killed; the
 * other two agree on every message before that, and deliver on in a next view, from the same one on.
 *
 *   cc failover.c $(pkg-config --cflags --libs squall) -o failover && ./failover demo
 */
#include <signal.h>
#include <squall.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
enum { MEMBERS = 3, AFTER = 10000 };
typedef struct { uint64_t hash, heard; uint32_t seat, members; } seen_t;
/* After the last message of one view, before the first of the next: at the same place everywhere. */
static void on_view(void *user, squall_group_t group, const squall_view_t *view)
{
  seen_t *seen = ((void)group, (seen_t *)user);
  seen->members = view->member_count, seen->heard = 0;
  for (uint32_t i = 0; i < view->departed_count; i++)
    printf("seat %d: seat %d is gone: %s\n", (int)seen->seat, (int)view->departed[i].seat,
           view->departed[i].text);
}
static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  seen_t *seen = ((void)subgroup, (seen_t *)user);
  if (++seen->heard == AFTER && seen->members == MEMBERS && seen->seat == 1) raise(SIGKILL);
  if (seen->members < MEMBERS - 1 || (seen->members < MEMBERS && seen->heard > AFTER)) return;
  seen->hash = (seen->hash ^ *(const uint64_t *)message->bytes) * 0x100000001b3; /* order matters */
  if (seen->heard == AFTER && seen->members < MEMBERS) squall_leave(group); /* soon SQUALL_LEFT */
}
static int member(const char *name, uint32_t rank)
{
  seen_t seen = {0xcbf29ce484222325, 0, rank, 0}; /* founders' seats are their first ranks */
  squall_group_attr_t attr;
  squall_callbacks_t callbacks;
  squall_group_attr_init(&attr, sizeof attr), squall_callbacks_init(&callbacks, sizeof callbacks);
  attr.name = name, attr.rank = rank, attr.members = MEMBERS;
  attr.membership = SQUALL_MEMBERSHIP_VIEWS; /* others could join, with SQUALL_FLAG_JOIN */
  callbacks.message = on_message, callbacks.view = on_view, callbacks.user = &seen;
  squall_group_t group = 0;
  int status = squall_group_open(&attr, &callbacks, &group);
  for (uint64_t next = (uint64_t)rank << 48; status >= 0;) { /* what is sent is never lost: */
    while (squall_send(group, 0, &next, sizeof next) >= 0) next++; /* SQUALL_AGAIN between views */
    if ((status = squall_poll(group, UINT32_MAX)) == 0) status = squall_wait(group, 1000);
  }
  printf("seat %d: hash %llx, %s\n", (int)rank, (unsigned long long)seen.hash,
         squall_status_text(status)); /* EXPELLED, PARTITIONED: close, and open anew to join */
  squall_group_close(group);
  return status != SQUALL_LEFT;
}
int main(int argc, char **argv)
{
  for (uint32_t rank = 0; argc == 2 && rank < MEMBERS; rank++)
    if (fork() == 0) return member(argv[1], rank);
  int well = 0;
  for (int status; wait(&status) > 0;) well += status == 0;
  return well == MEMBERS - 1 ? 0 : (puts("failover NAME: two members must end well"), 1);
}
