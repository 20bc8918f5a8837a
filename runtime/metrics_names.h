// The names in metrics.jsonl, one JSON object a line; units stand in the name. Those that
// torchtitan also has are spelled as there.
//
// Every line has its "time", seconds since the epoch: of a step when it was done, else when it was
// written. Runs of before have none.
//
//   {"type": "run", ...}         first line of each start: version, workers, seed, compute,
//   threads, processor, config ...
//   {"type": "step", ...}        one per step, the keys below
//   {"type": "evaluation", "step", "loss", "tokens", "seconds"}   on held-out data; loss in nats
//   per predicted token
//   {"type": "checkpoint", "step", "path", "seconds", "checkpoint/write(s)", "checkpoint/bytes"}
//   when it is published, "seconds" after its beginning: lines of later steps may stand before it
//   (of an elastic run without the last three: other workers wrote it)
//   {"type": "checkpoint_failed", "step", "worker", "text"}
//   {"type": "agreement", "step", "steps", "layers": [..], "agreement": [[..] ..]}   once in
//   audit.agreement_window steps, over the "steps" before: by layer, then voter, what
//   vote/agreement is of the whole; null where a voter abstained
//   {"type": "repair", "step", "worker", "text"}   a replica that differed, and by whom it was put
//   right
//   {"type": "alarm", "step", "worker", "text"}   a voter whose ballots agree with nobody's
//   {"type": "memory", "step", "planned_bytes", "used_bytes", "parts": {..}}   of worker 0, before
//   the first step and at the end; used: the growth of the process since it began, null where that
//   is not known
//   {"type": "term", "step", "term", "workers": [..], "reason"}   of an elastic run: a term began
//   after "step" with these workers; why, as the coordinator said it, or "". A line of type run
//   goes before
//   {"type": "end", "step", "replicas_identical", "seconds"}
#pragma once

namespace ballot::metric {

inline constexpr const char* kStep = "step";
inline constexpr const char* kTime = "time";
inline constexpr const char* kLoss =
    "loss_metrics/global_avg_loss";                          // nats per counted token, all workers
inline constexpr const char* kRate = "rate";                 // of the first group
inline constexpr const char* kTokensTotal = "tokens_total";  // all workers, since the start
inline constexpr const char* kTokensPerSecond = "throughput(tps)";  // per worker
inline constexpr const char* kStepSeconds = "time_metrics/end_to_end(s)";
inline constexpr const char* kDataSeconds = "time/data(s)";  // stages: of worker 0
inline constexpr const char* kForwardSeconds = "time/fwd(s)";
inline constexpr const char* kBackwardSeconds = "time/bwd(s)";
inline constexpr const char* kDirectionSeconds = "time/direction(s)";  // momentum and Newton-Schulz
inline constexpr const char* kPackSeconds = "time/pack(s)";
// Waiting for peers, the network and the counting, after backward; and what of them went on beside
// other work.
inline constexpr const char* kExposedSeconds = "time/comm_exposed(s)";
inline constexpr const char* kHiddenSeconds = "time/comm_hidden(s)";
inline constexpr const char* kTallySeconds = "time/tally(s)";  // counting: part of the two above
inline constexpr const char* kApplySeconds = "time/apply(s)";
inline constexpr const char* kAuditSeconds = "time/audit(s)";  // step report and digest check
inline constexpr const char* kBytesSent =
    "comm/wire_bytes_tx";  // worker 0, this step, all purposes
inline constexpr const char* kVoteBytesSent = "comm/vote_bytes_tx";
inline constexpr const char* kMeanBytesSent = "comm/mean_bytes_tx";
inline constexpr const char* kControlBytesSent = "comm/control_bytes_tx";
inline constexpr const char* kMemberBytesSent =
    "comm/member_bytes_tx";  // inside the voter; in none of the others
inline constexpr const char* kFp32Bytes =
    "comm/fp32_allreduce_bytes";  // 2 (W-1)/W x 4 P: what a ring would send
inline constexpr const char* kCompression = "comm/compression_vs_fp32";
inline constexpr const char* kBackend = "comm/backend";
inline constexpr const char* kTieShare = "vote/tie";  // shares of voted elements
inline constexpr const char* kUnanimousShare = "vote/unanimous";
inline constexpr const char* kHeldShare = "vote/held_blocks";
inline constexpr const char* kAgreement = "vote/agreement";  // array, leave-one-out, one per voter
inline constexpr const char* kAgreementMin = "vote/agree_min";
inline constexpr const char* kAgreementRank =
    "vote/agree_rank";  // the voter with the least agreement
inline constexpr const char* kGradientFaults =
    "faults/gradient";  // tensors left out this step, all workers
inline constexpr const char* kLossFaults = "faults/loss";  // workers whose loss was not finite
// Of worker 0's shard of the journal: the step's time for it, bytes written, waiting for room in
// the queue (part of the first), steps that are not durable yet.
inline constexpr const char* kJournalSeconds = "time/journal(s)";
inline constexpr const char* kJournalBytes = "journal/bytes";
inline constexpr const char* kJournalWaitSeconds = "journal/wait(s)";
inline constexpr const char* kJournalLag = "journal/lag";
// Of worker 0 in a step while a checkpoint is under way: the step's time for it, which is copying
// tensors that it was about to change and waiting for room to do so.
inline constexpr const char* kCheckpointWaitSeconds = "checkpoint/wait(s)";
// In a line of type "checkpoint": from its beginning until worker 0's share was durable, and the
// bytes of all shares.
inline constexpr const char* kCheckpointWriteSeconds = "checkpoint/write(s)";
inline constexpr const char* kCheckpointBytes = "checkpoint/bytes";
inline constexpr const char* kSlowestVoter = "slowest_voter";  // longest computing this step
inline constexpr const char* kSlowestSeconds = "slowest_voter(s)";
// By stage (replica_audit.h): "slowest/fwd" the worker, "slowest/fwd(s)" its seconds,
// "slowest/fwd_median(s)" the median of all workers.
inline constexpr const char* kSlowestPrefix = "slowest/";

}  // namespace ballot::metric
