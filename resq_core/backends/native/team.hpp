// A few threads that run one function together, and wait for each other inside it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace resq {

// Waits a few microseconds awake, then asleep, so that a wait costs others next to nothing.
class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}
  void wait();
  int members() const { return members_; }

 private:
  const int members_;
  std::atomic<int> arrived_{0};
  std::atomic<int> phase_{0};
};

// The process's helpers. One frame at a time has them; a frame that finds them taken runs alone,
// so that one stream alone uses every core and many streams use a core each.
class Team {
 public:
  using Body = std::function<void(int rank, Barrier& barrier)>;

  // Runs body(rank, barrier) for ranks 0 to n−1 with n ≤ threads; rank 0 is the caller.
  static void run(int threads, const std::function<void(int members)>& before, const Body& body);

 private:
  Team() = default;
  static Team& instance();
  void grow(int threads);
  void work(int rank, int seen);
  void share(int members, const Body& body);

  std::mutex taken_;
  std::vector<std::thread> workers_;
  std::atomic<int> round_{0};
  std::atomic<int> finished_{0};
  int members_ = 0;
  const Body* body_ = nullptr;
  Barrier* barrier_ = nullptr;
};

}  // namespace resq
