/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * order.c - proof of one order: three members send at once, each hashes what it is given, and the
 * hashes, sent through the group as everybody's last message, must be equal.
 *
 *   cc order.c $(pkg-config --cflags --libs squall) -o order && ./order demo 10000
 */
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
enum { MEMBERS = 3 };
typedef struct { uint64_t hash, heard, all, wrong; } seen_t;
static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  seen_t *seen = (seen_t *)user;
  if (seen->heard < seen->all) {
    seen->hash = (seen->hash ^ message->rank) * 0x100000001b3; /* FNV-1a: the order matters */
    for (uint32_t i = 0; i < message->len; i++)
      seen->hash = (seen->hash ^ ((const uint8_t *)message->bytes)[i]) * 0x100000001b3;
  } else if (*(const uint64_t *)message->bytes != seen->hash) { /* payloads are aligned to 16 */
    seen->wrong++;
  }
  if (++seen->heard == seen->all) squall_send(group, subgroup, &seen->hash, sizeof seen->hash);
}

static int member(const char *name, uint32_t rank, uint64_t count)
{
  seen_t seen = {0xcbf29ce484222325, 0, MEMBERS * count, 0};
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = name, attr.rank = rank, attr.members = MEMBERS;
  squall_callbacks_t callbacks; /* may send, may not poll or close */
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.message = on_message, callbacks.user = &seen;
  squall_group_t group = 0; /* opened after fork: handles do not survive one */
  int status = squall_group_open(&attr, &callbacks, &group);
  for (uint64_t sent = 0; status >= 0 && seen.heard < seen.all + MEMBERS;) {
    while (sent < count && squall_send(group, 0, &sent, sizeof sent) >= 0) sent++; /* until full */
    if ((status = squall_poll(group, UINT32_MAX)) == 0) status = squall_wait(group, 1000);
  }
  char why[256] = "";
  if (status < 0) squall_last_error(why, sizeof why); /* if the status alone is not enough */
  printf("rank %u: hash %016llx, %s %s\n", rank, (unsigned long long)seen.hash,
         status < 0 ? squall_status_text(status) : seen.wrong ? "others DIFFER" : "all agree", why);
  squall_group_close(group);
  return status < 0 || seen.wrong > 0;
}

int main(int argc, char **argv)
{
  if (argc != 3) return puts("usage: order NAME MESSAGES"), EXIT_FAILURE;
  for (uint32_t rank = 0; rank < MEMBERS; rank++)
    if (fork() == 0) return member(argv[1], rank, strtoull(argv[2], NULL, 10));
  int failed = 0;
  for (int status; wait(&status) > 0;) failed |= status != 0;
  return failed;
}
