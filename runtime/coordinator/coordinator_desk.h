// The thread that owns a CoordinatorCore: calls come to it, it asks the core, has rows stored and
// answers. It knows no sockets; runtime/coordinator/coordinator_service.h brings the calls.
//
// Nothing is said of a row before it is durable: the core sees to it, the desk only tells it what
// became of its writes.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "core/clock.h"
#include "runtime/coordinator/leadership.h"
#include "runtime/coordinator/rate_window.h"
#include "runtime/coordinator/refusals.h"
#include "runtime/coordinator/row_thread.h"
#include "runtime/coordinator/service_status.h"

namespace ballot {

// Why a call ends without what it asked for.
struct CallEnd {
  enum class Kind {
    unavailable,
    refused,
    malformed,
    denied,
    too_many,
    replaced,
    sent_away,
    internal
  };
  Kind kind = Kind::unavailable;
  std::string text;
};

// A worker's stream as the desk sees it; called on the desk's thread, must not block or throw.
class PulseCall {
 public:
  virtual ~PulseCall() = default;
  virtual void answer(const Order& order) = 0;  // only the newest needs to arrive
  virtual void take_next() = 0;                 // the last pulse has been handled
  virtual void end(const CallEnd& why) = 0;
};

struct DeskOptions {
  CoordinatorOptions coordinator;  // but for its config, which is the next
  // Of the run's configuration; none: the row's, and before there is one the first worker's.
  std::optional<Digest> config;
  Duration beat = std::chrono::milliseconds(200);     // at least so often
  Duration longest_write = std::chrono::seconds(30);  // of the row: is waited for at the end
  // Null: it always leads. While it does not it answers nobody, and says who does.
  std::shared_ptr<const Leadership> leadership;
};

class CoordinatorDesk {
 public:
  using JoinOutcome = std::variant<Identity, CallEnd>;
  using Reply = std::function<void(const JoinOutcome&)>;

  // Throws what the store throws: a row that cannot be read is no empty one.
  CoordinatorDesk(DeskOptions options, std::unique_ptr<RowStore> store, Refusals& refusals,
                  const Clock& clock);
  // As stop(), and waits for the row's write under way, up to longest_write.
  ~CoordinatorDesk();

  // Any thread. After the end of the desk calls are answered with `unavailable` at once.
  void join(Join join, std::string who, Deadline deadline, Reply reply);
  // A stream: opened (it may then be ended for its silence), its pulses, closed.
  void opened(std::shared_ptr<PulseCall> call, std::string who);
  void pulse(std::shared_ptr<PulseCall> call, Pulse pulse, std::string who);
  void closed(const PulseCall* call);
  // `done` with nothing, or why it was not done.
  void expel(std::int32_t worker, std::string reason, std::function<void(const CallEnd*)> done);
  // Nothing: the desk has ended.
  void status(std::function<void(const ServiceStatus*)> reply);

  // Ends all calls, saying why, and the thread.
  void stop(const std::string& why);
  // Whether it leads and has read its row; any thread.
  bool serving() const;
  // Waits until it has ended; false at the deadline. Throws what ended it, if that was no stop().
  bool wait(Deadline deadline);

 private:
  struct Stream {
    std::shared_ptr<PulseCall> call;
    std::string who;
    TimePoint heard;
    std::optional<Identity> identity;          // of its first pulse
    WorkerState state = WorkerState::joining;  // of its last
    Order told = {};                           // last
  };
  struct ParkedJoin {
    Join join;
    std::string who;
    Deadline deadline;
    Reply reply;
    bool asked = false;  // the core, at least once
  };
  enum class Request { none, read, write };
  using Task = std::function<void()>;

  bool post(Task task);  // false: the desk has ended
  void run();
  void work();
  void make_core(const Row& row);
  bool may_lead() const;
  CallEnd not_leading() const;
  void follow_leadership();
  bool follow_config(const Row& row);
  bool may_ask(TimePoint now) const;
  void beat();
  void finish_request(const RowOutcome& outcome);
  Stream* find_stream(const std::shared_ptr<PulseCall>& call, const std::string& who);
  void hear(const std::shared_ptr<PulseCall>& call, const Pulse& pulse, const std::string& who);
  bool try_join(ParkedJoin& join);  // whether it has been answered
  void retry_joins();
  void end_late_joins();
  void end_silent_streams(TimePoint now);
  void end_all(const CallEnd& why);
  void say_what_changed(TimePoint now);
  void push_orders(TimePoint now);
  void add_reason(Order& order) const;
  void keep_recorded(const Pulse& pulse);
  ServiceStatus make_status() const;
  bool ended() const;
  std::string why_ended() const;

  const DeskOptions options_;
  Refusals& refusals_;
  const Clock& clock_;
  const TimePoint began_;

  // The desk's thread only.
  std::unique_ptr<CoordinatorCore> core_;
  std::optional<Digest> config_;
  std::map<const PulseCall*, Stream> streams_;
  std::vector<ParkedJoin> joins_;
  std::map<std::int32_t, RateWindow> rates_;
  RateWindow commit_rate_;
  std::optional<RecordedStep> recorded_;  // the newest, by term and step
  std::int64_t recorded_term_ = 0;
  Request request_ = Request::none;  // of the row, under way
  int failures_ = 0;                 // of the store, since it last wrote
  TimePoint retry_at_{};             // not before is it asked again
  std::string trouble_;              // the store's, or empty
  std::string said_;                 // the last decision in the log
  std::int64_t said_term_ = 0;
  struct Change {
    TimePoint at;
    std::int64_t term;
    std::string reason;
  };
  std::int64_t pushed_ = 0;  // the core's news
  std::deque<Change> changes_;
  std::string change_reason_;  // of the term that is being written

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool stopping_ = false, serving_ = false;
  bool ended_ = false;  // no task is taken any more
  bool over_ = false;   // and all calls have been told
  std::string stop_reason_;
  std::exception_ptr failure_;
  std::unique_ptr<RowThread> rows_;  // its outcomes come as tasks: goes before them
  std::thread thread_;
};

}  // namespace ballot
