/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * hello.c - the least that a member does: open, send, poll until everybody was heard, close.
 *
 *   cc hello.c $(pkg-config --cflags --libs squall) -o hello
 *   for rank in 0 1 2; do ./hello demo $rank 3 & done; wait
 *
 * All members print the same lines in the same order, in whichever order they were started.
 */
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what, int status)
{
  char why[256] = ""; /* the cause, the value and the remedy, if the status alone is not enough */
  squall_last_error(why, sizeof why);
  fprintf(stderr, "hello: %s: %s (%d) %s\n", what, squall_status_text(status), status, why);
  return EXIT_FAILURE;
}

/* Runs inside squall_poll. The bytes are valid until it returns. */
static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  (void)group, (void)subgroup;
  printf("rank %u says: %.*s\n", (unsigned)message->rank, (int)message->len,
         (const char *)message->bytes);
  ++*(int *)user;
}

int main(int argc, char **argv)
{
  if (argc != 4) return fprintf(stderr, "usage: hello NAME RANK MEMBERS\n"), EXIT_FAILURE;
  int heard = 0;
  squall_group_attr_t attr; /* zero is the default of every field; these have none */
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = argv[1];
  attr.rank = (uint32_t)atoi(argv[2]);
  attr.members = (uint32_t)atoi(argv[3]);
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.message = on_message;
  callbacks.user = &heard;

  squall_group_t group = 0;
  int status = squall_group_open(&attr, &callbacks, &group); /* waits for the other members */
  if (status != SQUALL_OK) return failed("cannot open the group", status);
  char text[64];
  int len = snprintf(text, sizeof text, "hello from %s of %s", argv[2], argv[3]);
  int64_t ordinal = squall_send(group, 0, text, (uint32_t)len);
  if (ordinal < 0) return failed("cannot send", (int)ordinal);
  while (status >= 0 && heard < (int)attr.members) {
    status = squall_poll(group, UINT32_MAX);            /* one turn; it never blocks */
    if (status == 0) status = squall_wait(group, 1000); /* quiet: sleep until a peer rings */
  }
  if (status < 0) return failed("the group has stopped", status);
  return squall_group_close(group) == SQUALL_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
