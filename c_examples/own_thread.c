/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * own_thread.c - the group polls itself: the program only sends, and its callbacks run on the
 * group's thread. Here the main thread sleeps on a condition until everybody's messages are here.
 *
 *   cc own_thread.c $(pkg-config --cflags --libs squall) -pthread -o own_thread
 *   for rank in 0 1; do ./own_thread demo $rank 2 & done; wait
 */
#include <pthread.h>
#include <sched.h>
#include <squall.h>
#include <stdio.h>
#include <stdlib.h>
enum { EACH = 10000 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t heard; /* this and the next under the lock */
static int stopped;
static void on_batch(void *user, squall_group_t group, uint32_t subgroup,
                     const squall_message_t *messages, uint32_t count)
{
  (void)user, (void)group, (void)subgroup, (void)messages;
  pthread_mutex_lock(&lock); /* once per batch, not per message */
  heard += count;
  pthread_cond_signal(&changed);
  pthread_mutex_unlock(&lock);
}

static void on_stopped(void *user, squall_group_t group, int status, int32_t rank, const char *why)
{
  (void)user, (void)group, (void)rank, (void)why;
  pthread_mutex_lock(&lock);
  stopped = status; /* SQUALL_PEER_LEFT after the last message is how it should end */
  pthread_cond_signal(&changed);
  pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
  char why[256] = "usage: own_thread NAME RANK MEMBERS";
  squall_group_attr_t attr;
  squall_group_attr_init(&attr, sizeof attr);
  if (argc != 4) return puts(why), EXIT_FAILURE;
  attr.name = argv[1], attr.flags = SQUALL_FLAG_OWN_THREAD;
  attr.rank = (uint32_t)atoi(argv[2]), attr.members = (uint32_t)atoi(argv[3]);
  squall_callbacks_t callbacks;
  squall_callbacks_init(&callbacks, sizeof callbacks);
  callbacks.deliver = on_batch, callbacks.stopped = on_stopped;
  squall_group_t group;
  if (squall_group_open(&attr, &callbacks, &group) != SQUALL_OK)
    return squall_last_error(why, sizeof why), puts(why), EXIT_FAILURE;
  for (uint32_t i = 0; i < EACH; i++) /* no room: the slowest member has not read it all yet */
    while (squall_send(group, 0, &i, sizeof i) == SQUALL_AGAIN) sched_yield();
  pthread_mutex_lock(&lock);
  while (heard < EACH * attr.members && stopped == 0) pthread_cond_wait(&changed, &lock);
  int complete = heard == EACH * attr.members;
  printf("%u messages heard, %s\n", heard, squall_status_text(complete ? SQUALL_OK : stopped));
  pthread_mutex_unlock(&lock); /* before close, which waits for callbacks that want the lock */
  return squall_group_close(group) == SQUALL_OK && complete ? EXIT_SUCCESS : EXIT_FAILURE;
}
