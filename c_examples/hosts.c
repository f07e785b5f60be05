/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * hosts.c - members on several hosts from one file: each says a line and prints what all have said.
 *
 *   cc hosts.c $(pkg-config --cflags --libs squall) -o hosts
 *   squall secret demo.secret       # once; copy it and this squall.toml to each host:
 *                                   #   group = "demo"
 *                                   #   members = 2
 *                                   #   fabric = "auto"
 *                                   #   network.founders = ["10.0.0.1:7471", "10.0.0.2:7471"]
 *                                   #   network.secret_file = "demo.secret"
 *   ./hosts squall.toml 0           # on 10.0.0.1, and 1 on the other one; or with SQUALL_RANK=1
 */
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what, int status)
{
  char why[512] = ""; /* for the file: the line, what it may say, and the nearest key */
  squall_last_error(why, sizeof why);
  fprintf(stderr, "hosts: %s: %s (%d) %s\n", what, squall_status_text(status), status, why);
  return EXIT_FAILURE;
}

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
  int heard = 0;
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  attr.open_timeout_ms = 30000; /* set before: a default of this program's */
  int status = squall_group_attr_read(&attr, argc > 1 ? argv[1] : "squall.toml");
  if (status != SQUALL_OK) return failed("cannot read the settings", status);
  if (argc > 2) attr.rank = (uint32_t)atoi(argv[2]); /* set afterwards: wins */
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.message = on_message, callbacks.user = &heard;
  squall_group_t group = 0;
  status = squall_group_open(&attr, &callbacks, &group); /* calls the others until they are there */
  squall_group_attr_free(&attr);
  if (status != SQUALL_OK) return failed("cannot open the group", status);
  int members = squall_group_members(group);
  int64_t ordinal = squall_send(group, 0, "hello", 5);
  if (ordinal < 0) return failed("cannot send", (int)ordinal);
  while (status >= 0 && heard < members) {
    status = squall_poll(group, UINT32_MAX);
    if (status == 0) status = squall_wait(group, 1000);
  }
  if (status < 0) return failed("the group has stopped", status);
  return squall_group_close(group) == SQUALL_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
