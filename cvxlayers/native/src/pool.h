// Threads that wait for work. One loop at a time has them; a second caller does its loop alone. They survive a fork: the
// child starts its own.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace cvxlayers {

class Pool {
 public:
  // The pool of this process. It is never destroyed: at exit its threads may still be waiting.
  static Pool& get();

  static constexpr std::ptrdiff_t MOST = 256;  // threads, whatever is asked for

  // For short accesses to what outlives a call: it is free in the child of a fork.
  static std::mutex& state_mutex();

  // work(i) for i in [0, count), on at most `threads` threads, the caller's among them. Work must not throw.
  template <class Work>
  void run(int threads, std::ptrdiff_t count, const Work& work) {
    threads = int(std::min<std::ptrdiff_t>({threads, count, MOST}));
    if (threads > 1 && !busy_.exchange(true)) {
      Loop loop;
      loop.count = count;
      loop.call = [](const void* w, std::ptrdiff_t i) { (*static_cast<const Work*>(w))(i); };
      loop.work = &work;
      share(loop, threads - 1);
      busy_ = false;
      return;
    }
    for (std::ptrdiff_t i = 0; i < count; i++) work(i);
  }

 private:
  struct Loop {
    std::ptrdiff_t count = 0;
    void (*call)(const void*, std::ptrdiff_t) = nullptr;
    const void* work = nullptr;
    std::atomic<std::ptrdiff_t> next{0};
    void run() {
      for (std::ptrdiff_t i; (i = next++) < count;) call(work, i);
    }
  };

  std::mutex mutex_;
  std::condition_variable start_, finish_;
  Loop* loop_ = nullptr;
  int wanted_ = 0, active_ = 0, workers_ = 0;   // helpers that may still join; that are at work; that exist
  std::atomic<bool> busy_{false};

  void share(Loop& loop, int helpers);
  void wait_for_work();
};

}  // namespace cvxlayers
