// Who of several coordinators with one row leads. With a row that one process keeps nobody asks.
//
// What a coordinator does is safe whoever leads: the row's writes are conditional (C1). Leadership
// decides who speaks to workers, so that they are not told two things in turn.
#pragma once

#include <string>

namespace ballot {

// Any thread may ask.
class Leadership {
 public:
  virtual ~Leadership() = default;
  // Whether this one leads now. Never true after its lease may have ended.
  virtual bool leads() const = 0;
  // Where it does not: who does, or why nobody is known to. For messages.
  virtual std::string standing() const = 0;
};

}  // namespace ballot
