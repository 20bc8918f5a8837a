// The worker of the failure protocol over real sockets, threads and disks: does what WorkerCore
// (runtime/protocol/worker_core.h) asks for, and tells it what happens.
//
//   the caller's thread   computes: ballots, updates, going back, evaluation
//   protocol              takes the core's actions and does or hands on each, in order; pulses
//   coordinator           joins, waits for orders
//   deciding              counts the ballots of this worker's chunk
//   disk                  publishes checkpoints
//   gRPC's                hand in what comes from peers
//
// The core is behind one mutex; nobody waits for a peer, a disk or a computation with it held.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/checkpoint_writer.h"
#include "runtime/coordinator/coordinator_client.h"
#include "runtime/elastic/elastic_journal.h"
#include "runtime/elastic/elastic_trainer.h"
#include "runtime/elastic/peers.h"
#include "runtime/elastic/recovery.h"
#include "runtime/elastic/replica.h"
#include "runtime/elastic/step_figures.h"
#include "runtime/elastic/task_thread.h"
#include "runtime/protocol/worker_core.h"

namespace ballot {

// What the coordinator is told from now on.
struct AppliedAnswer {
  VoterJudgement judgement;
  std::optional<RecordedStep> recorded;  // none: another worker writes the record
};

// Called on the computing thread.
struct ElasticEvents {
  // Before the first ballot of this process, and whenever its term changes; why, as the coordinator
  // said it, or empty.
  std::function<void(const TermRecord&, const std::string& reason)> entered;
  // After an update; with figures if this worker voted in the step.
  std::function<AppliedAnswer(const AppliedRecord&, const std::optional<StepFigures>&)> applied;
};

class ElasticWorker {
 public:
  // Everything must outlive it.
  ElasticWorker(const RunConfig& config, const ElasticOptions& options, const TrainingHooks& hooks,
                Replica& replica, ElasticJournal& journal, Recovery& recovery, Recovered start);
  ~ElasticWorker();

  // Until the run has ended or this worker has left; false: it has left.
  bool run(ElasticEvents events);

  std::string checkpoint() const;        // the newest that is published, as far as it knows
  std::int64_t checkpoint_step() const;  // its step; 0: none
  PeersTraffic traffic() const { return peers_->traffic(); }
  // Of the computing thread, since the last call.
  double take_checkpoint_wait() { return writer_.take_wait_seconds(); }
  double take_tally_seconds();

 private:
  struct Cast {  // a finished ballot, and what it was made from
    std::int64_t step = 0;
    Position base;
    SampleRange samples;
    std::shared_ptr<const VoterBallot> ballot;
  };
  struct Place {  // among the workers of a term
    int index = 0, workers = 1;
  };
  struct Apply {
    HoldRecord hold;
    std::optional<CheckpointShare> share;  // to be written after it
  };
  struct Enter {
    TermRecord record;
    std::string reason;
  };
  struct ConfirmShare {  // written by this member; by the voter's others?
    CheckpointFact fact;
    std::int64_t number = 0;
  };
  using Task = std::variant<Apply, ComputeBallot, Rewind, LoadCheckpoint, Enter, ConfirmShare>;

  PeerHandlers handlers();
  TimePoint now() const { return system_clock().now(); }
  template <class Work>
  void with_core(const Work& work);
  // Of the term that a frame came in, if this worker is in it.
  std::optional<Place> place_in(std::int64_t term) const;
  std::optional<Place> place_now() const;
  void fail(std::exception_ptr error);

  // The protocol's thread.
  void serve();
  void pulse();
  void act(const SendBallot& send);
  void act(const SendVerdict& send);
  void act(const ComputeBallot& compute);
  void act(const DecideChunk& decide);
  void act(const HoldRecord& hold);
  void act(const SendFetch& fetch);
  void act(const OpenLinks& open);
  void act(const CloseLinks& close);
  void act(const Rewind& rewind);
  void act(const LoadCheckpoint& load);
  void act(const AskToJoin& ask);
  void act(const PulseNow& pulse);
  void act(const Left& left);
  void act(const OtherLength& other);
  void act(const PublishCheckpoint& publish);
  void act(const CheckpointsKept& kept);
  void push(Task task);
  std::optional<CheckpointShare> share_of(const HoldRecord& hold) const;

  void listen_to_coordinator();  // its thread
  void decide(const DecideChunk& decide, std::shared_ptr<const BallotData> own,
              std::vector<std::int64_t> counts);

  // The computing thread.
  void run(const Apply& apply);
  void run(const ComputeBallot& compute);
  void run(const Rewind& rewind);
  void run(const LoadCheckpoint& load);
  void run(const Enter& enter);
  void run(const ConfirmShare& confirm);
  void look_at_members();
  void begin_last_checkpoint();
  std::optional<Recovered> copy_checkpoint(const Source& source, Deadline deadline);
  bool is_over();

  const RunConfig& config_;
  const ElasticOptions& options_;
  const TrainingHooks& hooks_;
  Replica& replica_;
  ElasticJournal& journal_;
  Recovery& recovery_;
  const Duration patience_;
  ElasticEvents events_;
  CheckpointWriter writer_;
  std::optional<Deadline> end_by_;        // of the last checkpoint's publication
  std::deque<ConfirmShare> unconfirmed_;  // the computing thread's, as the next
  TimePoint look_at_;                     // the other members' shares, not before

  mutable std::mutex mutex_;  // of everything to the next blank line
  std::condition_variable changed_;
  std::unique_ptr<WorkerCore> core_;
  std::uint64_t told_ = 0, seen_ = 0;  // events of the core, and those that were acted upon
  std::deque<Task> tasks_;
  std::exception_ptr failure_;
  bool stop_ = false, left_ = false, leaving_ = false;
  bool asking_ = false;  // to join
  std::optional<Cast> cast_;
  double tally_seconds_ = 0;
  Position newest_checkpoint_;
  std::optional<RecordedStep> recorded_;
  std::pair<std::int64_t, std::string> reason_;    // of the newest term told of: why it began
  std::map<std::int32_t, std::string> addresses_;  // of workers, as last heard

  // The protocol's thread alone.
  std::optional<TermRecord> record_;      // of the term whose links are open
  std::map<std::int64_t, Place> places_;  // in the last terms that it was in
  std::vector<std::int64_t> counts_;      // AdamW's updates after what is held, by tensor
  std::optional<SendFetch> postponed_;    // until the updates have caught up

  CoordinatorClient client_;
  std::unique_ptr<TaskThread> decider_, publisher_;
  std::thread protocol_, coordinator_;
  std::unique_ptr<Peers> peers_;
};

}  // namespace ballot
