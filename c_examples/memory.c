/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * memory.c - one-sided writes: a member lends a picture and passes its ticket on as a message; the other
 * one writes the picture there, and neither sends it as a message nor asks its owner.
 *
 *   cc memory.c $(pkg-config --cflags --libs squall) -o memory && ./memory demo
 */
#include <squall.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static unsigned char picture[1 << 20];
static squall_ticket_t ticket;   /* once it is here */
static squall_completion_t done; /* of the put, or its announcement */
static void on_message(void *user, squall_group_t group, uint32_t subgroup,
                       const squall_message_t *message)
{
  (void)user, (void)group, (void)subgroup;
  if (message->len == sizeof ticket) memcpy(&ticket, message->bytes, sizeof ticket);
}
static int member(const char *name, uint32_t rank)
{
  squall_group_attr_t attr;
  squall_callbacks_t callbacks;
  squall_memory_attr_t lent;
  squall_access_t access;
  squall_group_attr_init(&attr, sizeof attr), squall_callbacks_init(&callbacks, sizeof callbacks);
  squall_memory_attr_init(&lent, sizeof lent), squall_access_init(&access, sizeof access);
  attr.name = name, attr.rank = rank, attr.members = 2;
  attr.membership = SQUALL_MEMBERSHIP_VIEWS, callbacks.message = on_message;
  squall_group_t group = 0;
  squall_memory_t memory = 0; /* its handle here; the ticket is its name elsewhere */
  int status = squall_group_open(&attr, &callbacks, &group);
  lent.address = picture, lent.length = sizeof picture; /* SQUALL_MEMORY_CUDA: a device's address */
  if (rank == 0) lent.flags = SQUALL_MEMORY_WRITE;
  if (status == SQUALL_OK) status = squall_memory_register(group, &lent, &memory);
  if (status == SQUALL_OK && rank == 0 && squall_memory_ticket(group, memory, &ticket) == SQUALL_OK)
    status = (int)squall_send(group, 0, &ticket, sizeof ticket);
  memset(picture, rank == 1 ? 0xab : 0, sizeof picture);
  access.memory = memory, access.ticket = &ticket, access.length = sizeof picture;
  access.flags = SQUALL_ACCESS_ANNOUNCE, access.word = 42;
  for (int begun = 0; status >= 0 && squall_memory_poll(group, &done, 1) == 0;) {
    if (ticket.words[0] && rank == 1 && !begun++) status = squall_memory_put(group, &access);
    if (status >= 0 && (status = squall_poll(group, UINT32_MAX)) == 0)
      status = squall_wait(group, 1000); /* returns for completions, too */
  }
  if (done.what == SQUALL_ANNOUNCED) /* it is all there */
    printf("word %d, first %x, last %x\n", (int)done.word, picture[0], picture[sizeof picture - 1]);
  squall_group_close(group);
  return status < 0 || done.status != SQUALL_OK;
}
int main(int argc, char **argv)
{
  int status = 1;
  if (argc != 2) return puts("memory NAME"), 1;
  if (fork() == 0) return member(argv[1], 1);
  int failed = member(argv[1], 0);
  return wait(&status) < 0 || failed || status;
}
