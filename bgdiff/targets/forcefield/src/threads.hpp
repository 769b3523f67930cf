// Threads that share the tiles of a call. They are started at first need and kept, because starting one takes as long
// as computing a hundred conformations.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace bgdiff {

class Crew {
public:
    // Of this process: a child of fork has none of its parent's threads, so it gets a crew of its own. Crews are
    // never destroyed: their threads sleep until the process ends, and a child never touches its parent's crew,
    // which the fork may have caught in any state.
    static Crew &of_process() {
        static std::atomic<Crew *> current{nullptr};
        const pid_t process = getpid();
        Crew *crew = current.load();
        while (!crew || crew->process_ != process) {
            Crew *fresh = new Crew(process);
            if (current.compare_exchange_strong(crew, fresh)) return *fresh;
            delete fresh;  // another thread was faster; this crew has no threads yet
        }
        return *crew;
    }

    // Call work() here and on up to `helpers` other threads; return when all of them have returned. Helpers that do not
    // come in time, because they are busy with other calls, are not waited for: work() must find out itself
    // what is left to do. Throws nothing unless work() does.
    void run(int helpers, const std::function<void()> &work) {
        Job job{&work, helpers};
        {
            const std::lock_guard lock(mutex_);
            Job **end = &first_;
            while (*end) end = &(*end)->next;
            *end = &job;
            wanted_ += helpers;
            while (size_ < wanted_ && start_thread()) ++size_;
        }
        for (int h = 0; h < helpers; ++h) wake_.notify_one();
        work();
        std::unique_lock lock(mutex_);
        remove(job);
        wanted_ -= helpers;
        done_.wait(lock, [&] { return job.running == 0; });
    }

private:
    struct Job {
        const std::function<void()> *work;
        int open;  // helpers that have not come yet
        int running = 0;
        Job *next = nullptr;
    };

    explicit Crew(pid_t process) : process_(process) {}

    bool start_thread() {
        try {
            std::thread([this] { serve(); }).detach();
            return true;
        } catch (...) {  // the system has no more threads to give: those that run do the work
            return false;
        }
    }

    void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return first_ != nullptr; });
            Job &job = *first_;
            if (--job.open == 0) remove(job);
            ++job.running;
            lock.unlock();
            (*job.work)();
            lock.lock();
            if (--job.running == 0) done_.notify_all();
        }
    }

    // From the queue, if it is there.
    void remove(Job &job) {
        Job **link = &first_;
        while (*link && *link != &job) link = &(*link)->next;
        if (*link) *link = job.next;
    }

    const pid_t process_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Job *first_ = nullptr;        // the queue
    int size_ = 0, wanted_ = 0;  // threads there are, and helpers that the calls in progress have asked for
};

}  // namespace bgdiff
