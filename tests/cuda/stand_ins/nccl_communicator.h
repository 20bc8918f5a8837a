// One rank's communicator of the stand-in's NCCL: the states it goes through, and the operations
// that it has issued, which run one after another in the order of their issue, as NCCL's do.
#pragma once

#include <nccl.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "stand_ins/nccl_operation.h"
#include "stand_ins/nccl_world.h"

namespace ballot::stand_in {

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(const ncclUniqueId& id, int rank, int size, int device, bool blocking);

  // Drives what is in progress and says how it stands: ncclSuccess, ncclInProgress, or
  // ncclRemoteError when it waits for a rank that is gone.
  ncclResult_t ask();
  // Throws Violation while something is in progress or when it was finalized.
  void require_ready(const char* who) const;

  // Given to the streams at once, or when ask() has said ncclSuccess: until then the program's own
  // work goes before.
  ncclResult_t issue(std::vector<std::shared_ptr<Operation>> operations);
  ncclResult_t wait_for_all();  // until all ranks have come
  ncclResult_t finalize();
  // Finalizes first where that was not done, which waits for every rank's.
  void destroy();
  // What is queued ends without effect; the other ranks hear of it.
  void abort();
  // As if the process had ended.
  void drop();

  int rank() const { return world_.rank(); }
  int size() const { return world_.size(); }
  int device() const { return device_; }
  int next_collective() { return ++collectives_; }
  const std::string& loss() const { return loss_; }
  std::string name() const;  // "rank 1 of 3"

 private:
  enum class State { coming, ready, issuing, finalizing, finalized, ended };
  void give_to_streams();
  bool run(const std::shared_ptr<Operation>& operation);
  std::string missing(const Operation& operation) const;
  void finalize_further();
  std::string not_finalized() const;
  bool find_loss();
  void end(bool aborted);

  World world_;
  int device_;
  bool blocking_;
  State state_ = State::coming;
  int delay_;  // times to be asked before what can be done is
  bool said_finalized_ = false;
  int collectives_ = 0;
  std::deque<std::shared_ptr<Operation>> issued_;  // not done; the newest may not be in streams yet
  std::vector<std::shared_ptr<Operation>> held_back_;
  std::string loss_;
};

}  // namespace ballot::stand_in
