#include "team.hpp"

#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace resq {
namespace {

constexpr int kSpins = 20000;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns as soon as `value` is no longer `old`.
void await_change(const std::atomic<int>& value, int old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Barrier::wait() {
  if (members_ == 1) return;
  const int phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    await_change(phase_, phase);
  }
}

Team& Team::instance() {
  // Never destroyed: its threads may sleep until the process ends. A fork's child, which has
  // none of the threads, gets a team of its own.
  static std::mutex guard;
  static Team* team = nullptr;
  static pid_t owner = 0;
  const std::lock_guard<std::mutex> lock(guard);
  if (!team || owner != getpid()) {
    team = new Team();
    owner = getpid();
  }
  return *team;
}

void Team::run(int threads, const std::function<void(int)>& before, const Body& body) {
  if (threads > 1) {
    Team& team = instance();
    const std::unique_lock<std::mutex> lock(team.taken_, std::try_to_lock);
    if (lock.owns_lock()) {
      team.grow(threads - 1);
      before(threads);
      team.share(threads, body);
      return;
    }
  }
  before(1);
  Barrier alone(1);
  body(0, alone);
}

void Team::grow(int threads) {
  while (int(workers_.size()) < threads) {
    const int rank = int(workers_.size()) + 1;
    const int seen = round_.load(std::memory_order_relaxed);
    workers_.emplace_back([this, rank, seen] { work(rank, seen); });
  }
}

void Team::share(int members, const Body& body) {
  Barrier barrier(members);
  members_ = members;
  body_ = &body;
  barrier_ = &barrier;
  finished_.store(0, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  body(0, barrier);
  int done = finished_.load(std::memory_order_acquire);
  while (done < int(workers_.size())) {  // those that have no part in this round too
    await_change(finished_, done);
    done = finished_.load(std::memory_order_acquire);
  }
}

void Team::work(int rank, int seen) {
  for (;;) {
    await_change(round_, seen);
    seen = round_.load(std::memory_order_acquire);
    if (rank < members_) (*body_)(rank, *barrier_);
    finished_.fetch_add(1, std::memory_order_release);
    finished_.notify_all();
  }
}

}  // namespace resq
