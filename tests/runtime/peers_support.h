// A worker's Peers on a loopback port, with handlers that write down what happens.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/elastic/peers.h"
#include "tests/runtime/peers_values.h"

namespace ballot::test {

class TestPeer {
 public:
  struct Ballot {
    Hello from;
    BallotFrame frame;
  };
  struct Verdict {
    Hello from;
    VerdictFrame frame;
  };
  struct Lost {
    std::int64_t term;
    Identity peer;
    std::string why;
    TimePoint at;
  };

  explicit TestPeer(std::int32_t worker, const std::function<void(PeersOptions&)>& change = {}) {
    identity = {worker, 1};
    options.run = "run";
    options.listen = "127.0.0.1:0";
    options.link_patience = std::chrono::seconds(5);
    if (change) change(options);
    start();
  }
  ~TestPeer() { peers.reset(); }

  void start() {
    PeerHandlers handlers;
    handlers.answer = [this](const Hello& hello) {
      const std::lock_guard lock(mutex);
      hellos.push_back(hello);
      changed.notify_all();
      return answer ? answer(hello) : LinkAnswer::accept;
    };
    handlers.ballot = [this](const Hello& from, BallotFrame frame) {
      if (on_frame) on_frame();
      const std::lock_guard lock(mutex);
      ballots.push_back({from, std::move(frame)});
      changed.notify_all();
    };
    handlers.verdict = [this](const Hello& from, VerdictFrame frame) {
      const std::lock_guard lock(mutex);
      verdicts.push_back({from, std::move(frame)});
      changed.notify_all();
    };
    handlers.link_opened = [this](std::int64_t, const Identity& peer) {
      const std::lock_guard lock(mutex);
      opened.push_back(peer);
      changed.notify_all();
    };
    handlers.peer_lost = [this](std::int64_t term, const Identity& peer, const std::string& why) {
      const std::lock_guard lock(mutex);
      lost.push_back({term, peer, why, std::chrono::steady_clock::now()});
      changed.notify_all();
    };
    handlers.fetched = [this](const Identity&, FetchReply reply) {
      const std::lock_guard lock(mutex);
      replies.push_back(std::move(reply));
      changed.notify_all();
    };
    handlers.fetch_failed = [this](const Identity&, const std::string& why) {
      const std::lock_guard lock(mutex);
      failures.push_back(why);
      changed.notify_all();
    };
    handlers.serve = [this](const Fetch& fetch) { return serve(fetch); };
    handlers.checkpoint = [this] { return checkpoint; };
    peers = make_peers(options, std::move(handlers));
  }

  // Waits at most 20 s; `holds` is called with the mutex held.
  bool wait(const std::function<bool()>& holds, Duration limit = std::chrono::seconds(20)) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, limit, holds);
  }
  bool wait_opened(std::size_t count = 1) {
    return wait([&] { return opened.size() >= count; });
  }
  TermWorker in_record(std::int32_t voter) const { return {identity, peers->address(), voter}; }
  Source source() const { return {identity, peers->address(), 0}; }

  Identity identity;
  PeersOptions options;
  std::mutex mutex;
  std::condition_variable changed;
  std::function<LinkAnswer(const Hello&)> answer;  // with the mutex held
  std::function<void()> on_frame;
  std::function<FetchReply(const Fetch&)> serve = [](const Fetch& fetch) {
    FetchReply reply;
    reply.from = fetch.from;
    return reply;
  };
  std::string checkpoint;
  std::vector<Hello> hellos;
  std::vector<Ballot> ballots;
  std::vector<Verdict> verdicts;
  std::vector<Identity> opened;
  std::vector<Lost> lost;
  std::vector<FetchReply> replies;
  std::vector<std::string> failures;
  std::unique_ptr<Peers> peers;  // last: nothing is handed out once it is gone
};

inline TermRecord record_of(std::int64_t term, const std::vector<const TestPeer*>& workers) {
  TermRecord record;
  record.term = term;
  for (const TestPeer* worker : workers)
    record.workers.push_back(worker->in_record(static_cast<std::int32_t>(record.workers.size())));
  return record;
}

}  // namespace ballot::test
