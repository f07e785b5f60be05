/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * epoll.c - a group in an event loop, beside another descriptor: a timer, and with each tick a
 * message. The pattern: poll until quiet, arm, and sleep only if arm says that it is safe.
 *
 *   cc epoll.c $(pkg-config --cflags --libs squall) -o epoll
 *   for rank in 0 1; do ./epoll demo $rank 2 & done; wait
 */
#define _DEFAULT_SOURCE
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
enum { TICKS = 5 };
static int failed(const char *what, int status)
{
  char why[256] = "";
  squall_last_error(why, sizeof why);
  fprintf(stderr, "epoll: %s: %s %s\n", what, squall_status_text(status), why);
  return EXIT_FAILURE;
}

static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  (void)group, (void)subgroup;
  printf("tick %d of rank %u\n", *(const int *)message->bytes, (unsigned)message->rank);
  ++*(int *)user;
}

int main(int argc, char **argv)
{
  if (argc != 4) return fprintf(stderr, "usage: epoll NAME RANK MEMBERS\n"), EXIT_FAILURE;
  int heard = 0, tick = 0, all = TICKS * atoi(argv[3]);
  squall_group_attr_t attr; /* idle stays SQUALL_IDLE_PARK, which squall_fd and squall_arm need */
  squall_group_attr_init(&attr, sizeof attr);
  attr.name = argv[1], attr.rank = (uint32_t)atoi(argv[2]), attr.members = (uint32_t)atoi(argv[3]);
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.message = on_message, callbacks.user = &heard;
  squall_group_t group;
  int status = squall_group_open(&attr, &callbacks, &group);
  if (status < 0) return failed("cannot open the group", status);
  int loop = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event event = {EPOLLIN, {NULL}};
  struct itimerspec each = {{0, 20000000}, {0, 20000000}};
  if (timerfd_settime(timer, 0, &each, NULL) || epoll_ctl(loop, EPOLL_CTL_ADD, timer, &event) ||
      epoll_ctl(loop, EPOLL_CTL_ADD, squall_fd(group), &event))
    return perror("epoll"), EXIT_FAILURE;
  for (uint64_t due; heard < all;) {
    if (read(timer, &due, sizeof due) > 0 && tick < TICKS) /* the other descriptor's turn */
      tick += squall_send(group, 0, &tick, sizeof tick) >= 0;
    if ((status = squall_poll(group, UINT32_MAX)) == 0) status = squall_arm(group);
    if (status == SQUALL_OK) epoll_wait(loop, &event, 1, -1); /* AGAIN: there is news, no sleep */
    if (status < 0 && status != SQUALL_AGAIN) return failed("the group has stopped", status);
  }
  return squall_group_close(group) == SQUALL_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
