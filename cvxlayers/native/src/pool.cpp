#include "pool.h"

#include <pthread.h>

#include <system_error>

namespace cvxlayers {
namespace {

Pool* pool = nullptr;
std::mutex state;

// Nobody holds the state while the process forks. The child's pool is a new one: threads and locks of the old one are the
// parent's.
const int registered = (pool = new Pool, pthread_atfork([] { state.lock(); }, [] { state.unlock(); }, [] {
                          pool = new Pool;
                          state.unlock();
                        }));

}  // namespace

Pool& Pool::get() { return *pool; }
std::mutex& Pool::state_mutex() { return state; }

void Pool::share(Loop& loop, int helpers) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    try {
      for (; workers_ < helpers; workers_++) std::thread([this] { wait_for_work(); }).detach();
    } catch (const std::system_error&) {  // no more threads to be had: fewer will do
    }
    loop_ = &loop, wanted_ = helpers < workers_ ? helpers : workers_;
  }
  start_.notify_all();
  loop.run();
  std::unique_lock<std::mutex> lock(mutex_);
  wanted_ = 0;
  finish_.wait(lock, [this] { return active_ == 0; });
  loop_ = nullptr;
}

void Pool::wait_for_work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    start_.wait(lock, [this] { return wanted_ > 0; });
    wanted_--, active_++;
    Loop* loop = loop_;
    lock.unlock();
    loop->run();
    lock.lock();
    if (--active_ == 0) finish_.notify_one();
  }
}

}  // namespace cvxlayers
