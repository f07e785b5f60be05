/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * standin.c - a libcuda.so.1 without a device, for tests. Its device's memory cannot be read or written
 * by the processor where its addresses are; copies are carried out when their stream is synchronised and
 * not before; anything can be made to fail.
 *
 * standin_alloc, standin_free: memory of the device. standin_peek, standin_poke: what is there. standin_fail:
 * the call of that name fails from now on (NULL: none). standin_count: contexts pushed and not popped,
 * pinned buffers, streams, retained contexts. standin_flushes: how often it was asked to make visible what a
 * network device has written. "no dma-buf", "no flush", "no context", "keeps order" are no calls: what it is like.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALLOCATIONS = 64, COPIES = 256, GAP = 1 << 16 };
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, LAUNCH_FAILED = 719 };

typedef struct { uint64_t address; size_t bytes; char *shadow; int descriptor; } allocation_t;
typedef struct { void *to; const void *from; size_t bytes; int *stream; } copy_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static allocation_t allocations[ALLOCATIONS];
static copy_t copies[COPIES];
static int copy_count, pinned_count, stream_count, retained_count, flush_count, is_ready;
static int contexts[2]; /* the first is the primary one */
static __thread void *current;
static __thread int pushed;
static char failing[64];

static int fails(const char *call)
{
  return strcmp(call, failing) == 0;
}

void standin_fail(const char *call)
{
  snprintf(failing, sizeof failing, "%s", call ? call : "");
}

static size_t whole(size_t bytes)
{
  return (bytes + 4095) / 4096 * 4096;
}

uint64_t standin_alloc(size_t bytes)
{
  for (int i = 0; i < ALLOCATIONS; i++) {
    allocation_t *of = &allocations[i];
    if (of->bytes) continue;
    char *place = mmap(NULL, bytes + 2 * GAP, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    of->descriptor = memfd_create("standin", 1);
    if (place == MAP_FAILED || of->descriptor < 0 || ftruncate(of->descriptor, (off_t)whole(bytes))) return 0;
    of->shadow = mmap(NULL, whole(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, of->descriptor, 0);
    if (of->shadow == MAP_FAILED) return 0;
    of->address = (uint64_t)(uintptr_t)place + GAP, of->bytes = bytes;
    return of->address;
  }
  return 0;
}

static char *shadow(uint64_t address, size_t bytes)
{
  for (int i = 0; i < ALLOCATIONS; i++) {
    allocation_t *of = &allocations[i];
    if (of->bytes && address >= of->address && address - of->address < of->bytes)
      return bytes <= of->bytes - (address - of->address) ? of->shadow + (address - of->address) : NULL;
  }
  return NULL;
}

void standin_free(uint64_t address)
{
  for (int i = 0; i < ALLOCATIONS; i++)
    if (allocations[i].bytes && allocations[i].address == address) {
      munmap((void *)(uintptr_t)(address - GAP), allocations[i].bytes + 2 * GAP);
      munmap(allocations[i].shadow, whole(allocations[i].bytes)), close(allocations[i].descriptor);
      allocations[i].bytes = 0;
    }
}

int standin_peek(uint64_t address, void *bytes, size_t len)
{
  char *there = shadow(address, len);
  return there ? memcpy(bytes, there, len), 0 : INVALID_VALUE;
}

int standin_poke(uint64_t address, const void *bytes, size_t len)
{
  char *there = shadow(address, len);
  return there ? memcpy(there, bytes, len), 0 : INVALID_VALUE;
}

int standin_count(void)
{
  return pushed + pinned_count + stream_count + retained_count;
}

int cuInit(unsigned flags)
{
  is_ready = flags == 0 && !fails("cuInit");
  return is_ready ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorName(int code, const char **name)
{
  *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : NULL;
  return *name ? SUCCESS : INVALID_VALUE;
}

int cuPointerGetAttribute(void *value, int which, uint64_t address)
{
  if (!is_ready || !shadow(address, 1) || fails("cuPointerGetAttribute")) return INVALID_VALUE;
  switch (which) {
  case 1: *(void **)value = fails("no context") ? NULL : &contexts[1]; return SUCCESS;
  case 2: *(unsigned *)value = 2; return SUCCESS;
  case 8: *(unsigned *)value = 0; return SUCCESS;
  case 9: *(int *)value = 0; return SUCCESS;
  default: return INVALID_VALUE;
  }
}

int cuDeviceGetAttribute(int *value, int which, int device)
{
  *value = 0;
  if (device == 0 && which == 117) *value = !fails("no flush");
  if (device == 0 && which == 118) *value = fails("keeps order") ? 100 : 0;
  if (device == 0 && which == 124) *value = !fails("no dma-buf");
  return fails("cuDeviceGetAttribute") ? INVALID_VALUE : SUCCESS;
}

/* A descriptor of a whole allocation's memory: what is asked for has to begin where that does. */
int cuMemGetHandleForAddressRange(void *handle, uint64_t address, size_t bytes, int kind, uint64_t flags)
{
  if (!current || kind != 1 || flags || address % 4096 || bytes % 4096 || !bytes) return INVALID_VALUE;
  if (fails("cuMemGetHandleForAddressRange")) return 801; /* not supported */
  for (int i = 0; i < ALLOCATIONS; i++)
    if (allocations[i].bytes && allocations[i].address == address && bytes <= whole(allocations[i].bytes)) {
      *(int *)handle = fcntl(allocations[i].descriptor, F_DUPFD_CLOEXEC, 0);
      return *(int *)handle >= 0 ? SUCCESS : OUT_OF_MEMORY;
    }
  return INVALID_VALUE;
}

int cuFlushGPUDirectRDMAWrites(int target, int scope)
{
  if (!current || target != 0 || scope != 100 || fails("cuFlushGPUDirectRDMAWrites")) return INVALID_VALUE;
  flush_count++;
  return SUCCESS;
}

int standin_flushes(void)
{
  return flush_count;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
  if (device != 0 || fails("cuDevicePrimaryCtxRetain")) return OUT_OF_MEMORY;
  *context = &contexts[0], retained_count++;
  return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
  retained_count--;
  return device == 0 ? SUCCESS : INVALID_VALUE;
}

int cuCtxPushCurrent_v2(void *context)
{
  if ((context != &contexts[0] && context != &contexts[1]) || fails("cuCtxPushCurrent"))
    return INVALID_CONTEXT;
  current = context, pushed++;
  return SUCCESS;
}

int cuCtxPopCurrent_v2(void **context)
{
  *context = current, current = NULL, pushed--;
  return SUCCESS;
}

int cuMemHostAlloc(void **place, size_t bytes, unsigned flags)
{
  if (!current || fails("cuMemHostAlloc")) return OUT_OF_MEMORY;
  *place = flags == 1 ? malloc(bytes) : NULL, pinned_count += *place != NULL;
  return *place ? SUCCESS : INVALID_VALUE;
}

int cuMemFreeHost(void *place)
{
  free(place), pinned_count--;
  return current ? SUCCESS : INVALID_CONTEXT;
}

int cuStreamCreate(void **stream, unsigned flags)
{
  if (!current || flags != 1 || fails("cuStreamCreate")) return INVALID_VALUE;
  *stream = calloc(1, sizeof(int)), stream_count++;
  return SUCCESS;
}

int cuStreamDestroy_v2(void *stream)
{
  int kept = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < copy_count; i++)
    if (copies[i].stream != stream) copies[kept++] = copies[i];
  copy_count = kept;
  pthread_mutex_unlock(&lock);
  free(stream), stream_count--;
  return current ? SUCCESS : INVALID_CONTEXT;
}

static int later(void *to, const void *from, size_t bytes, void *stream, const char *call)
{
  int code = !current ? INVALID_CONTEXT : !to || !from || !stream ? INVALID_VALUE : SUCCESS;
  if (code == SUCCESS && fails(call)) code = LAUNCH_FAILED;
  pthread_mutex_lock(&lock);
  if (code == SUCCESS && copy_count == COPIES) code = OUT_OF_MEMORY;
  if (code == SUCCESS) copies[copy_count++] = (copy_t){to, from, bytes, stream};
  pthread_mutex_unlock(&lock);
  return code;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream)
{
  return later(shadow(to, bytes), from, bytes, stream, "cuMemcpyHtoDAsync");
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream)
{
  return later(to, shadow(from, bytes), bytes, stream, "cuMemcpyDtoHAsync");
}

int cuStreamSynchronize(void *stream)
{
  int kept = 0;
  if (!current || fails("cuStreamSynchronize")) return LAUNCH_FAILED;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < copy_count; i++)
    if (copies[i].stream == stream) memcpy(copies[i].to, copies[i].from, copies[i].bytes);
    else copies[kept++] = copies[i];
  copy_count = kept;
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}
