// A team of threads that run one function together, and share out the items of a loop.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <sched.h>
#endif

inline void pause_briefly(int n_waited) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
#if !defined(_WIN32)
  // Another process may have the core of the thread that is waited for.
  if (n_waited > 2000) sched_yield();
#endif
}

class Team {
 public:
  ~Team() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  // Start threads, as far as the system allows; return how many of ``n`` there are with the caller's.
  int start(int n) {
    try {
      while ((int)workers_.size() < n - 1) {
        int number = (int)workers_.size() + 1;
        workers_.emplace_back([this, number] { work(number); });
      }
    } catch (const std::system_error&) {
    }
    return n < (int)workers_.size() + 1 ? n : (int)workers_.size() + 1;
  }

  // Call f(thread) on n threads that were started, the caller's being number 0.
  void run(int n, const std::function<void(int)>& f) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      size_ = n;
      task_ = &f;
      left_ = n - 1;
      if (n > 1) round_.fetch_add(1);
    }
    if (n > 1) wake_.notify_all();
    f(0);
    for (int i = 0; left_.load(std::memory_order_acquire) > 0; i++) pause_briefly(i);
  }

  // Wait for all threads.
  void barrier() {
    if (size_ == 1) {
      next_.store(0, std::memory_order_relaxed);
      return;
    }
    int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      for (int i = 0; phase_.load(std::memory_order_acquire) == phase; i++) pause_briefly(i);
    }
  }

  // Call f(first, end) for pieces of 0 to n, of ``grain`` items, from all threads; then wait for all.
  template <class F>
  void share(long n, long grain, const F& f) {
    if (size_ == 1) {
      if (n > 0) f(0L, n);
    } else {
      for (;;) {
        long first = next_.fetch_add(grain, std::memory_order_relaxed);
        if (first >= n) break;
        f(first, first + grain < n ? first + grain : n);
      }
    }
    barrier();
  }

  int size() const { return size_; }

 private:
  void work(int number) {
    int seen = 0;
    for (;;) {
      const std::function<void(int)>* task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || round_.load() != seen; });
        if (stopping_) return;
        seen = round_.load();
        task = task_;
        if (number >= size_) continue;
      }
      (*task)(number);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* task_ = nullptr;
  std::atomic<int> round_{0}, left_{0}, arrived_{0}, phase_{0};
  std::atomic<long> next_{0};
  std::atomic<int> size_{1};
  bool stopping_ = false;
};
