// Read bandwidth of this machine: ./bandwidth BYTES THREADS RUNS prints GB/s of each run.
// Each thread adds up its part of one buffer with vector loads; a run reads at least 1 GB.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef long long Vector __attribute__((vector_size(64)));
enum { kLanes = 8, kMaxThreads = 64 };

typedef struct {
  const Vector* data;
  size_t count;
  int repeats;
  long long sum;
} Part;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

static void* read_part(void* argument) {
  Part* part = argument;
  Vector sums[kLanes] = {{0}};
  for (int r = 0; r < part->repeats; ++r)
    for (size_t i = 0; i + kLanes <= part->count; i += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += part->data[i + lane];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 8; ++i) part->sum += sums[lane][i];
  return NULL;
}

int main(int count, char** words) {
  if (count != 4) return 2;
  const size_t bytes = strtoull(words[1], NULL, 10) & ~(size_t)4095;
  const int threads = atoi(words[2]), runs = atoi(words[3]);
  if (bytes == 0 || threads < 1 || threads > kMaxThreads) return 2;
  char* data = aligned_alloc(4096, bytes);
  if (!data) return 1;
  memset(data, 1, bytes);
  long long sum = 0;
  for (int run = 0; run < runs; ++run) {
    pthread_t pool[kMaxThreads];
    Part parts[kMaxThreads];
    const int repeats = (int)(1000000000ull / bytes) + 1;
    const size_t vectors = bytes / sizeof(Vector) / (size_t)threads;
    const double start = now();
    for (int t = 0; t < threads; ++t) {
      parts[t] = (Part){(const Vector*)data + vectors * (size_t)t, vectors, repeats, 0};
      pthread_create(&pool[t], NULL, read_part, &parts[t]);
    }
    for (int t = 0; t < threads; ++t) {
      pthread_join(pool[t], NULL);
      sum += parts[t].sum;
    }
    printf("%.3f\n", (double)vectors * threads * sizeof(Vector) * repeats / (now() - start) / 1e9);
  }
  fprintf(stderr, "%lld\n", sum);
  free(data);
  return 0;
}
