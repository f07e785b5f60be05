/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * zero_copy.c - messages that are made where they will be read: reserve, fill, publish (or abort);
 * and one that lies in pieces. The group has one member, so that the program is enough by itself.
 *
 *   cc zero_copy.c $(pkg-config --cflags --libs squall) -o zero_copy && ./zero_copy demo
 */
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *what, int64_t status)
{
  char why[256] = "";
  squall_last_error(why, sizeof why);
  fprintf(stderr, "zero_copy: %s: %s %s\n", what, squall_status_text((int)status), why);
  return EXIT_FAILURE;
}

static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  (void)group, (void)subgroup;
  printf("%.*s\n", (int)message->len, (const char *)message->bytes);
  char *all = (char *)user;
  strncat(all, (const char *)message->bytes, message->len);
}

int main(int argc, char **argv)
{
  char all[200] = "";
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = argc == 2 ? argv[1] : "zero_copy", attr.members = 1;
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.message = on_message, callbacks.user = all;
  squall_group_t group;
  int64_t status = squall_group_open(&attr, &callbacks, &group);
  if (status < 0) return failed("cannot open the group", status);

  void *slot; /* lies in the ring that the others map: nothing written here is copied again */
  if ((status = squall_reserve(group, 0, 100, &slot)) < 0) return failed("reserve", status);
  int len = snprintf((char *)slot, 100, "made in place, ");
  if ((status = squall_publish(group, 0, (uint32_t)len)) < 0) return failed("publish", status);

  if ((status = squall_reserve(group, 0, 100, &slot)) < 0) return failed("reserve", status);
  memset(slot, '?', 100); /* a change of mind: nobody ever hears of it */
  if ((status = squall_abort(group, 0)) < 0) return failed("abort", status);

  const squall_piece_t pieces[] = {{"head, ", 6}, {"body ", 5}, {"and tail", 8}};
  if ((status = squall_sendv(group, 0, pieces, 3)) < 0) return failed("sendv", status);

  for (int heard = 0; heard < 2; heard += (int)status)
    if ((status = squall_poll(group, UINT32_MAX)) < 0) return failed("poll", status);
  int right = strcmp(all, "made in place, head, body and tail") == 0;
  return squall_group_close(group) == SQUALL_OK && right ? EXIT_SUCCESS : EXIT_FAILURE;
}
