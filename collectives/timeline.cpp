#include "collectives/timeline.h"

#include <algorithm>
#include <queue>
#include <set>
#include <tuple>
#include <vector>

#include "core/error.h"

namespace ballot {
namespace {

class Simulation {
 public:
  Simulation(std::span<const ComputeTask> tasks, std::span<const CollectiveCost* const> collectives,
             const Cluster& cluster, const VoteRates& rates, TimelineOptions options)
      : tasks_(tasks), cluster_(cluster), rates_(rates), options_(options) {
    for (const CollectiveCost* cost : collectives) collectives_.emplace_back(*cost);
    left_ = tasks.size();
  }

  Timeline run() {
    if (tasks_.empty()) end_compute();
    dispatch();
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      handle(event);
      dispatch();
    }
    for (const Collective& c : collectives_)
      for (std::size_t p = 0; p < c.stage.size() && !c.cost.pieces.empty(); ++p)
        require(c.stage[p] == c.stages(p).size(),
                "piece {} of a simulated collective never ended: its segments were not released",
                p);
    timeline_.finished = std::max(timeline_.finished, timeline_.computed);
    return timeline_;
  }

 private:
  enum class Kind { task, continuation, communication, arrival, local_mean };
  struct Event {
    double at;
    std::uint64_t order;  // of making: equal times stay in order
    Kind kind;
    std::size_t one, two;
    bool operator>(const Event& other) const {
      return std::tie(at, order) > std::tie(other.at, other.order);
    }
  };
  struct Collective {
    explicit Collective(const CollectiveCost& the_cost) : cost(the_cost) {
      const std::vector<std::int64_t>& starts = cost.segment_starts;
      const std::size_t count = cost.pieces.size() + 1;  // the end is one more piece of one stage
      waiting.assign(count, 0);
      waiting.back() = static_cast<int>(cost.pieces.size());
      stage.assign(count, 0);
      arriving.assign(count, 0);
      reaches.resize(starts.size());
      for (std::size_t s = 0; s < starts.size(); ++s) {
        const std::int64_t end = s + 1 < starts.size() ? starts[s + 1] : cost.extent;
        const auto first = std::ranges::upper_bound(cost.pieces, starts[s], {},
                                                    [](const PieceCost& p) { return p.range.end; });
        for (auto p = first; p != cost.pieces.end() && p->range.begin < end; ++p) {
          reaches[s].push_back(static_cast<std::size_t>(p - cost.pieces.begin()));
          ++waiting[reaches[s].back()];
        }
      }
    }
    std::span<const StageCost> stages(std::size_t piece) const {
      if (piece == cost.pieces.size()) return {&cost.end, 1};
      return cost.pieces[piece].stages;
    }
    const CollectiveCost& cost;
    std::size_t left = 0, under_way = 0;            // pieces that have started; that have not ended
    std::vector<int> waiting;                       // by piece: segments not yet released
    std::vector<std::size_t> stage;                 // by piece
    std::vector<int> arriving;                      // by piece: transfers under way
    std::vector<std::vector<std::size_t>> reaches;  // by segment: its pieces
  };

  void push(double at, Kind kind, std::size_t one = 0, std::size_t two = 0) {
    events_.push({at, made_++, kind, one, two});
  }

  void handle(const Event& event) {
    switch (event.kind) {
      case Kind::task: {
        const ComputeTask& task = tasks_[event.one];
        compute_busy_ = false;
        if (task.local_bytes > 0) {
          const double held = task.local_bytes / cluster_.local.bandwidth;
          push(occupy(local_free_, held, timeline_.local_busy) + cluster_.local.latency,
               Kind::local_mean, event.one);
        } else if (task.then_seconds > 0) {
          continuations_.insert(event.one);
        } else {
          end_task(event.one);
        }
        break;
      }
      case Kind::local_mean:
        continuations_.insert(event.one);
        break;
      case Kind::continuation:
        compute_busy_ = false;
        end_task(event.one);
        break;
      case Kind::communication:
        communication_busy_ = false;
        after_work(event.one, event.two);
        break;
      case Kind::arrival: {
        Collective& c = collectives_[event.one];
        if (--c.arriving[event.two] == 0) pending_.insert({1, event.one, event.two});
        break;
      }
    }
  }

  void end_task(std::size_t task) {
    const ComputeTask& t = tasks_[task];
    if (t.collective >= 0) {
      if (options_.overlap)
        release(static_cast<std::size_t>(t.collective), t.segment);
      else
        held_back_.push_back(task);
    }
    if (--left_ == 0) end_compute();
  }

  void end_compute() {
    timeline_.computed = now_;
    for (const std::size_t task : held_back_)
      release(static_cast<std::size_t>(tasks_[task].collective), tasks_[task].segment);
    // Segments that no task names were final before the first task.
    if (tasks_.empty())
      for (std::size_t c = 0; c < collectives_.size(); ++c)
        for (std::size_t s = 0; s < collectives_[c].reaches.size(); ++s) release(c, s);
  }

  void release(std::size_t collective, std::size_t segment) {
    Collective& c = collectives_[collective];
    require(segment < c.reaches.size(), "segment {} of {} is released", segment, c.reaches.size());
    for (const std::size_t p : c.reaches[segment]) --c.waiting[p];
    start(collective);
  }

  // What may leave does.
  void start(std::size_t collective) {
    Collective& c = collectives_[collective];
    while (c.left < c.cost.pieces.size() && c.waiting[c.left] == 0 &&
           c.under_way < options_.in_flight) {
      pending_.insert({0, collective, c.left++});
      ++c.under_way;
    }
  }

  // pending_: {0 to start | 1 to go on, collective, piece}. What the thread does of a stage in one
  // go: the work after the stage that has arrived and the work before the next.
  void dispatch() {
    const auto core_is_free = [this] {
      return !options_.shared_core || (!compute_busy_ && !communication_busy_);
    };
    if (!communication_busy_ && !pending_.empty() && core_is_free()) {
      const auto [goes_on, collective, piece] = *pending_.begin();
      pending_.erase(pending_.begin());
      const Collective& c = collectives_[collective];
      const std::span<const StageCost> stages = c.stages(piece);
      const std::size_t stage = c.stage[piece];
      double work = 0;
      if (goes_on == 1) work += seconds(stages[stage].after, rates_);
      const std::size_t next = stage + (goes_on == 1 ? 1 : 0);
      if (next < stages.size()) work += seconds(stages[next].before, rates_);
      collectives_[collective].stage[piece] = next;
      communication_busy_ = true;
      timeline_.communication_busy += work;
      push(now_ + work, Kind::communication, collective, piece);
    }
    if (!compute_busy_ && core_is_free()) {
      if (!continuations_.empty()) {
        const std::size_t task = *continuations_.begin();
        continuations_.erase(continuations_.begin());
        compute_busy_ = true;
        push(now_ + tasks_[task].then_seconds, Kind::continuation, task);
      } else if (next_task_ < tasks_.size()) {
        compute_busy_ = true;
        push(now_ + tasks_[next_task_].seconds, Kind::task, next_task_);
        ++next_task_;
      }
    }
  }

  // The communication thread is through with a piece's work: its next stage goes out.
  void after_work(std::size_t collective, std::size_t piece) {
    Collective& c = collectives_[collective];
    const std::span<const StageCost> stages = c.stages(piece);
    if (c.stage[piece] == stages.size()) {
      timeline_.finished = std::max(timeline_.finished, now_);
      const std::size_t end = c.cost.pieces.size();
      if (piece == end) return;
      --c.under_way;
      start(collective);
      if (--c.waiting[end] == 0) pending_.insert({0, collective, end});
      return;
    }
    const Wire& wire = stages[c.stage[piece]].wire;
    double arrival = now_, local_arrival = now_;
    if (wire.remote_messages > 0) {
      const double held =
          static_cast<double>(wire.remote_messages) * cluster_.link.per_message +
          cluster_.node_size * static_cast<double>(wire.remote_bytes) / cluster_.link.bandwidth;
      arrival = occupy(link_free_, held, timeline_.link_busy) + wire.hops * cluster_.link.latency;
    }
    if (wire.local_messages > 0) {
      const double held = static_cast<double>(wire.local_messages) * cluster_.local.per_message +
                          static_cast<double>(wire.local_bytes) / cluster_.local.bandwidth;
      local_arrival =
          occupy(local_free_, held, timeline_.local_busy) + wire.hops * cluster_.local.latency;
    }
    c.arriving[piece] = 2;
    push(arrival, Kind::arrival, collective, piece);
    push(local_arrival, Kind::arrival, collective, piece);
  }

  double occupy(double& free, double held, double& busy) {
    free = std::max(free, now_) + held;
    busy += held;
    return free;
  }

  std::span<const ComputeTask> tasks_;
  const Cluster& cluster_;
  const VoteRates& rates_;
  const TimelineOptions options_;
  std::vector<Collective> collectives_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::set<std::tuple<int, std::size_t, std::size_t>> pending_;
  std::set<std::size_t> continuations_;
  std::vector<std::size_t> held_back_;
  std::size_t next_task_ = 0, left_ = 0;
  std::uint64_t made_ = 0;
  bool compute_busy_ = false, communication_busy_ = false;
  double now_ = 0, link_free_ = 0, local_free_ = 0;
  Timeline timeline_;
};

}  // namespace

Timeline simulate(std::span<const ComputeTask> tasks,
                  std::span<const CollectiveCost* const> collectives, const Cluster& cluster,
                  const VoteRates& rates, TimelineOptions options) {
  return Simulation(tasks, collectives, cluster, rates, options).run();
}

double simulate_alone(const CollectiveCost& collective, const Cluster& cluster,
                      const VoteRates& rates) {
  const CollectiveCost* const one[] = {&collective};
  return simulate({}, one, cluster, rates).finished;
}

}  // namespace ballot
