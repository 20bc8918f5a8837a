// Faults drawn from a seed, and told in words.
#include "tests/simulation/scenario.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/simulation/random.h"

namespace ballot::sim {

const char* to_string(Point point) {
  constexpr const char* kNames[] = {
      "send_ballot",  "send_verdict", "before_append",       "before_apply",
      "before_sync",  "after_sync",   "before_sealed_pulse", "after_sealed_pulse",
      "entered",      "before_cut",   "after_cut",           "fetched",
      "before_share", "after_share",  "before_publish",      "after_publish",
      "before_put",   "after_put",    "after_order"};
  return kNames[static_cast<int>(point)];
}

std::string describe(const Fault& f) {
  const std::string head = fmt::format("at {:5} ms: ", f.at);
  const auto back = [&] { return f.lasts == 0 ? "for good" : fmt::format("for {} ms", f.lasts); };
  switch (f.kind) {
    case Fault::Kind::crash:
      return head + fmt::format("worker {} dies {}", f.who, back());
    case Fault::Kind::lose_disk:
      return head + fmt::format("worker {} dies with its disk, {}", f.who, back());
    case Fault::Kind::crash_at:
      return head + fmt::format("worker {} dies at its next {}, number {}, {}", f.who,
                                to_string(f.point), f.count, back());
    case Fault::Kind::pause:
      return head + fmt::format("worker {} is stopped {}", f.who, back());
    case Fault::Kind::partition:
      return head + fmt::format("partition {:08x} {}", f.mask, back());
    case Fault::Kind::cut_link:
      return head + fmt::format("nothing from {} to {} {}", f.who, f.other, back());
    case Fault::Kind::loss:
      return head + fmt::format("messages lost with rate {:.2f} {}", f.rate, back());
    case Fault::Kind::doubles:
      return head + fmt::format("messages doubled with rate {:.2f} {}", f.rate, back());
    case Fault::Kind::delays:
      return head +
             fmt::format("messages up to {} ms late with rate {:.2f} {}", f.count, f.rate, back());
    case Fault::Kind::slow:
      return head + fmt::format("worker {} computes {} times as long {}", f.who, f.count, back());
    case Fault::Kind::slow_sync:
      return head + fmt::format("worker {} does not sync {}", f.who, back());
    case Fault::Kind::slow_apply:
      return head + fmt::format("worker {} takes {} ms to apply a step {}", f.who, f.count, back());
    case Fault::Kind::flip:
      return head + fmt::format("bit {} of worker {}'s parameters is flipped", f.count, f.who);
    case Fault::Kind::damage_checkpoint:
      return head + "the newest checkpoint is damaged";
    case Fault::Kind::break_stream:
      return head + fmt::format("the stream of worker {} breaks, and links to it {:08x}, {}", f.who,
                                f.mask, back());
    case Fault::Kind::sync_error:
      return head + fmt::format("the next fsync of worker {} fails", f.who);
    case Fault::Kind::disk_full:
      return head + fmt::format("the disk of worker {} is full after {} bytes", f.who, f.count);
    case Fault::Kind::join:
      return head + fmt::format("worker {} starts", f.who);
    case Fault::Kind::leave:
      return head + fmt::format("worker {} leaves", f.who);
    case Fault::Kind::coordinator_crash:
      return head + fmt::format("coordinator {} dies {}", f.who, back());
    case Fault::Kind::coordinator_crash_at:
      return head + fmt::format("coordinator {} dies at its next {}, number {}, {}", f.who,
                                to_string(f.point), f.count, back());
    case Fault::Kind::coordinator_pause:
      return head + fmt::format("coordinator {} is stopped {}", f.who, back());
    case Fault::Kind::lease:
      return head + fmt::format("the lease goes to coordinator {}, the other notices {} ms later",
                                f.who, f.lasts);
    case Fault::Kind::other_length:
      return head + fmt::format("{} stopped {}, and then to make {} steps more",
                                f.who < 0 ? "all workers are" : fmt::format("worker {} is", f.who),
                                back(), f.count);
    case Fault::Kind::row_lost:
      return head + fmt::format("the store is as it was {} terms ago", f.count);
    case Fault::Kind::store_trouble:
      return head + fmt::format("the store answers badly with rate {:.2f} {}", f.rate, back());
  }
  return head;
}

void add_storm(Scenario& s, std::uint64_t seed) {
  Random random(seed ^ 0x570a3ull);
  const Milliseconds at = random.between(500, 3500);
  const int alone = static_cast<int>(random.below(s.workers));
  const auto add = [&](Fault::Kind kind, Milliseconds when, Milliseconds lasts, int who) -> Fault& {
    Fault f;
    f.kind = kind;
    f.at = when;
    f.lasts = lasts;
    f.who = who;
    s.faults.push_back(f);
    return s.faults.back();
  };
  Fault& cut = add(random.chance(0.5) ? Fault::Kind::partition : Fault::Kind::crash, at,
                   random.between(1500, 4500), alone);
  cut.mask = 1u << alone;
  const Milliseconds calm = at + random.between(0, 2500);
  if (random.chance(0.5)) {
    for (int c = 0; c < s.coordinators; ++c)
      add(Fault::Kind::coordinator_pause, calm, random.between(500, 3000), c);
  } else {
    for (int w = 0; w < s.workers; ++w)
      if (random.chance(0.6)) add(Fault::Kind::slow_sync, calm, random.between(500, 3000), w);
  }
  const Milliseconds end = calm + random.between(300, 3000);
  for (int w = 0; w < s.workers; ++w)
    add(Fault::Kind::crash, end + (random.chance(0.5) ? 0 : random.between(0, 900)),
        random.between(200, 5500), w);
}

void add_fork(Scenario& s, std::uint64_t seed) {
  Random random(seed ^ 0xf02cull);
  s.workers = 4;
  s.quorum = 0;
  s.connections_end = false;
  const Milliseconds at = random.between(1000, 2500);
  const auto add = [&](Fault::Kind kind, Milliseconds when, Milliseconds lasts, int who) -> Fault& {
    Fault f;
    f.kind = kind;
    f.at = when;
    f.lasts = lasts;
    f.who = who;
    s.faults.push_back(f);
    return s.faults.back();
  };
  Fault& owner = add(Fault::Kind::crash_at, at, random.between(200, 9000), 0);
  owner.point = Point::send_verdict;
  owner.count = 2;
  Fault& holder = add(Fault::Kind::crash_at, at, random.between(500, 6000), 1);
  holder.point = Point::before_sealed_pulse;
  holder.count = 1;
  add(Fault::Kind::slow_sync, at - 300, 8000, 3);
  const Milliseconds end = at + random.between(2200, 4500);
  if (random.chance(0.5)) add(Fault::Kind::crash, end, random.between(200, 3000), 2);
  add(Fault::Kind::crash, end + random.between(0, 200), random.between(4500, 9000), 3);
}

void add_old_history(Scenario& s) {
  s.workers = 4;
  s.min_workers = 2;
  s.quorum = 0;
  s.connections_end = false;
  const auto add = [&](Fault::Kind kind, Milliseconds at, Milliseconds lasts, int who) -> Fault& {
    Fault f;
    f.kind = kind;
    f.at = at;
    f.lasts = lasts;
    f.who = who;
    s.faults.push_back(f);
    return s.faults.back();
  };
  const auto at_point = [](Fault& f, Point point, int count) {
    f.point = point;
    f.count = count;
  };
  at_point(add(Fault::Kind::crash_at, 594, 544, 0), Point::send_ballot, 1);
  add(Fault::Kind::slow_sync, 1488, 8000, 3);
  at_point(add(Fault::Kind::crash_at, 1788, 657, 0), Point::send_verdict, 2);
  at_point(add(Fault::Kind::crash_at, 1788, 5950, 1), Point::before_sealed_pulse, 1);
  add(Fault::Kind::lose_disk, 2428, 3975, 0);
  add(Fault::Kind::crash, 5487, 7248, 3);
  add(Fault::Kind::partition, 6505, 582, 0).mask = 0x19b8c464;
  add(Fault::Kind::crash, 6734, 4673, 2);
}

void add_lateness(Scenario& s, std::uint64_t seed) {
  Random random(seed ^ 0x1a7eull);
  Fault late;
  late.kind = Fault::Kind::delays;
  late.at = 300;
  late.lasts = s.fault_time - 300;
  late.rate = 0.35;
  late.count = static_cast<int>(random.between(300, 2000));
  s.faults.push_back(late);
  for (std::int64_t i = random.between(2, 6); i > 0; --i) {
    Fault f;
    f.kind = Fault::Kind::crash;
    f.at = random.between(600, s.fault_time - 1000);
    f.lasts = random.between(1, 60);
    f.who = static_cast<int>(random.below(s.workers));
    s.faults.push_back(f);
  }
}

void add_end(Scenario& s, std::uint64_t seed) {
  Random random(seed ^ 0xe2dull);
  s.steps = random.between(6, 36);
  const auto move = [&](int who, std::int64_t more) {
    Fault f;
    f.kind = Fault::Kind::other_length;
    f.at = random.between(2500, s.fault_time - 3000);
    f.lasts = random.chance(0.7) ? random.between(1200, 2600) : random.between(50, 900);
    f.who = who;
    f.count = static_cast<int>(more);
    s.faults.push_back(f);
  };
  if (random.chance(0.4)) move(-1, random.between(3, 20));
  if (random.chance(0.25)) move(static_cast<int>(random.below(s.workers)), random.between(-6, 12));
}

void add_two_lengths(Scenario& s, std::uint64_t seed) {
  Random random(seed ^ 0x21e2ull);
  s.steps = random.between(20, 40);
  s.workers = std::max(2, s.workers);
  Fault apart;
  apart.kind = Fault::Kind::partition;
  apart.at = random.between(1000, 3000);
  apart.lasts = random.between(2000, 3800);  // less than a cold start waits
  const int alone = static_cast<int>(random.below(s.workers));
  apart.mask = ((1u << s.workers) - 1) ^ (1u << alone);
  Fault other;
  other.kind = Fault::Kind::other_length;
  other.at = apart.at + 50;
  other.lasts = random.between(1200, 1700);
  other.who = alone;
  other.count = static_cast<int>(random.between(1, 12));
  s.faults.push_back(apart);
  s.faults.push_back(other);
}

void add_flip(Scenario& s, std::uint64_t seed, int least) {
  Random random(seed ^ 0xf11bull);
  s.workers = std::max(least, s.workers);
  if (s.checkpoint_every == 0) s.checkpoint_every = static_cast<int>(random.between(3, 9));
  Fault f;
  f.kind = Fault::Kind::flip;
  f.at = random.between(800, s.fault_time - 3000);
  f.who = static_cast<int>(random.below(s.workers));
  f.count = static_cast<int>(random.below(32 * 23));
  s.faults.push_back(f);
}

Scenario random_scenario(std::uint64_t seed) {
  Random random(seed ^ 0x5eedull);
  Scenario s;
  s.seed = seed;
  s.workers = static_cast<int>(random.between(1, 4));
  s.min_workers = s.workers > 1 && random.chance(0.4) ? 2 : 1;
  s.coordinators = random.chance(0.3) ? 2 : 1;
  s.quorum = s.workers > 2 && random.chance(0.4) ? s.workers - 1 : 0;
  s.per_voter = random.between(1, 3);
  const auto fault_count = random.between(1, 7);
  const int spare = 2;
  int joined = s.workers;
  int lost_disks = 0;
  for (std::int64_t i = 0; i < fault_count; ++i) {
    Fault f;
    f.at = random.between(500, s.fault_time - 3000);
    const Milliseconds left = s.fault_time - f.at;
    f.lasts = random.between(50, random.chance(0.5) ? 800 : std::min<Milliseconds>(left, 6000));
    f.who = static_cast<int>(random.below(s.workers));
    f.other = static_cast<int>((f.who + 1 + random.below(std::max(1, s.workers - 1))) % s.workers);
    f.rate = 0.02 * static_cast<double>(random.between(1, 15));
    const auto dice = random.below(106);
    if (dice < 14) {
      f.kind = Fault::Kind::crash;
    } else if (dice < 34) {
      f.kind = Fault::Kind::crash_at;
      f.point = static_cast<Point>(random.below(static_cast<int>(Point::after_publish) + 1));
      f.count = static_cast<int>(random.between(1, 6));
    } else if (dice < 38 && lost_disks == 0 && s.workers > 1) {
      f.kind = Fault::Kind::lose_disk;
      ++lost_disks;
    } else if (dice < 46) {
      f.kind = Fault::Kind::pause;
    } else if (dice < 54) {
      f.kind = Fault::Kind::partition;
      f.mask = static_cast<std::uint32_t>(random.next());
    } else if (dice < 60) {
      f.kind = Fault::Kind::cut_link;
      if (random.chance(0.3)) (random.chance(0.5) ? f.who : f.other) = 30;
    } else if (dice < 65) {
      f.kind = Fault::Kind::loss;
    } else if (dice < 69) {
      f.kind = Fault::Kind::doubles;
    } else if (dice < 75) {
      f.kind = Fault::Kind::delays;
      f.count = static_cast<int>(random.between(20, 1500));
    } else if (dice < 78) {
      f.kind = Fault::Kind::slow;
      f.count = static_cast<int>(random.between(2, 12));
    } else if (dice < 80) {
      f.kind = Fault::Kind::sync_error;
    } else if (dice < 81) {
      f.kind = Fault::Kind::disk_full;
      f.count = static_cast<int>(random.between(0, 3000));
    } else if (dice < 86 && joined < s.workers + spare) {
      f.kind = Fault::Kind::join;
      f.who = joined++;
    } else if (dice < 89) {
      f.kind = Fault::Kind::leave;
    } else if (dice < 92) {
      f.kind = Fault::Kind::coordinator_crash;
      f.who = static_cast<int>(random.below(s.coordinators));
    } else if (dice < 95) {
      f.kind = Fault::Kind::coordinator_crash_at;
      f.who = static_cast<int>(random.below(s.coordinators));
      f.point = static_cast<Point>(random.between(static_cast<int>(Point::before_put),
                                                  static_cast<int>(Point::after_order)));
      f.count = static_cast<int>(random.between(1, 4));
    } else if (dice < 96) {
      f.kind = Fault::Kind::coordinator_pause;
      f.who = static_cast<int>(random.below(s.coordinators));
    } else if (dice < 98 && s.coordinators > 1) {
      f.kind = Fault::Kind::lease;
      f.who = static_cast<int>(random.below(s.coordinators));
    } else if (dice < 100) {
      f.kind = Fault::Kind::store_trouble;
    } else if (dice < 103) {
      f.kind = Fault::Kind::slow_apply;
      f.count = static_cast<int>(random.between(100, 1500));
    } else {
      f.kind = Fault::Kind::break_stream;
      if (random.chance(0.7)) f.mask = static_cast<std::uint32_t>(random.next());
    }
    s.faults.push_back(f);
  }
  s.connections_end = random.chance(0.6);
  if (random.chance(0.5)) s.checkpoint_every = static_cast<int>(random.between(3, 9));
  if (random.chance(0.2)) add_storm(s, seed);
  if (random.chance(0.08)) add_fork(s, seed);
  if (random.chance(0.08)) add_lateness(s, seed);
  if (random.chance(0.03)) add_old_history(s);
  if (s.workers > 1 && random.chance(0.12)) add_flip(s, seed, 2);
  // Not with a lost disk: what was on both would be nowhere.
  if (s.checkpoint_every > 0 && lost_disks == 0 && random.chance(0.15)) {
    Fault f;
    f.kind = Fault::Kind::damage_checkpoint;
    f.at = random.between(2000, s.fault_time - 1000);
    s.faults.push_back(f);
  }
  if (random.chance(0.15)) add_end(s, seed);
  if (random.chance(0.03)) add_two_lengths(s, seed);
  return s;
}

}  // namespace ballot::sim
