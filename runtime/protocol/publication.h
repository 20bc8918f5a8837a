// Which checkpoint is to be published, and by whom: the coordinator's part of R10.
//
// A checkpoint is whole when all its shares have been told with one digest of the parameters, and
// proved when a worker of the term that has its position on its history has also a commit at or
// after it. The newest whole and proved one goes to the lowest worker that wrote a share of it; if
// that one falls silent, restarts or takes too long, to the next: publishing again does no harm.
// Once one says that it is done, the row names it.
//
// All of it is volatile: after a restart the workers tell their newest shares again, and what is
// never completed is followed by the next. Nothing here throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "core/clock.h"
#include "runtime/protocol/messages.h"
#include "runtime/protocol/mutations.h"

namespace ballot {

inline constexpr std::size_t kMostPublishedFiles = 4096;  // of all shares of a checkpoint

class Publication {
 public:
  Publication(Duration timeout, ProtocolMutations mutations)
      : timeout_(timeout), mutations_(mutations) {}

  // A pulse of a worker, which the row's newest incarnation of it has sent and that does not know
  // more than the row. Whether something is new.
  bool hear(const Pulse& pulse, const Row& row);
  // Drops what the row has overtaken: older than its checkpoints, or of an abandoned history.
  void follow(const Row& row);
  // Names a worker if there is something to publish; whether it has named another one. `present`:
  // the identity of a worker whose newest pulse is fresh.
  using Present = std::function<std::optional<Identity>(std::int32_t worker)>;
  bool name_writer(TimePoint now, const Row& row, const Present& present);

  // For the worker that is named: the whole checkpoint.
  std::optional<CheckpointFact> order_to(const Identity& worker) const;
  // What has been published and is not in the row, as the row is to keep it.
  std::optional<CheckpointFact> published(const Row& row) const;
  // What is amiss, for status and log; empty: nothing.
  std::string finding() const { return finding_; }

 private:
  struct Share {
    Identity writer;
    CheckpointFact fact;
  };
  struct Checkpoint {
    std::map<std::int32_t, Share> shares;  // by number
    bool proved = false, published = false, judged = false;
  };
  using Key = std::pair<Position, std::int32_t>;  // and its number of shares
  bool whole(const Key& key, const Checkpoint& checkpoint) const;
  bool publishable(const Key& key, const Checkpoint& checkpoint, const Row& row) const;
  static CheckpointFact joined(const Key& key, const Checkpoint& checkpoint);
  void take_share(const Identity& writer, const CheckpointFact& fact, bool& news);
  void judge(const Key& key, Checkpoint& checkpoint);
  void drop_named_unless_there();

  Duration timeout_;
  ProtocolMutations mutations_;
  std::map<Key, Checkpoint> checkpoints_;
  struct Named {
    Key key;
    Identity writer;
    TimePoint since;
  };
  std::optional<Named> named_;
  std::int64_t term_ = 0;  // of the row, as followed
  std::string finding_;
};

}  // namespace ballot
