// The table of arithmetic instructions.
//
// What CUDA calls approximate (ex2, lg2, rsqrt, sin, cos, tanh, div.approx) is exact here up to the
// host's rounding: a device differs in the last bits. Compiled with -frounding-math and
// -ffp-contract=off.
#include "ptx/arithmetic.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>
#include <map>
#include <type_traits>
#include <utility>

#include "ptx/words.h"  // value_of, word_of

namespace ballot::ptx {
namespace {

using u8 = std::uint8_t;
using s8 = std::int8_t;
using u16 = std::uint16_t;
using s16 = std::int16_t;
using u32 = std::uint32_t;
using s32 = std::int32_t;
using u64 = std::uint64_t;
using s64 = std::int64_t;
using f32 = float;
using f64 = double;

// to = f(from...), lane by lane. F is an empty function object.
template <class F, class To, class... From>
void map(Step& step, const Operation& operation) {
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    Slot& to = step[operation.to[0]];
    const Slot* from[] = {&step[operation.from[i]]...};
    const auto one = [&](std::size_t lane) {
      to[lane] = word_of<To>(static_cast<To>(F()(value_of<From>((*from[i])[lane])...)));
    };
    if (step.lanes == 0xffffffffu) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) one(lane);
    } else {
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        if ((step.lanes >> lane & 1) != 0) one(lane);
    }
  }
  (std::index_sequence_for<From...>());
}

// The same with another rounding.
template <class F, int kMode, class To, class... From>
void map_rounding(Step& step, const Operation& operation) {
  std::fesetround(kMode);
  map<F, To, From...>(step, operation);
  std::fesetround(FE_TONEAREST);
}

template <class T>
T flush(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}
// f on flushed operands, its result flushed.
template <class F>
struct Flushed {
  template <class... T>
  auto operator()(T... x) const {
    const auto y = F()(flush(x)...);
    if constexpr (std::is_same_v<decltype(y), const bool>)
      return y;
    else
      return flush(y);
  }
};
template <class F>
struct Saturated {
  template <class... T>
  auto operator()(T... x) const {
    const auto y = F()(x...);
    return std::isnan(y) ? decltype(y)(0) : std::clamp<decltype(y)>(y, 0, 1);
  }
};

// Without overflow's undefined behaviour: in the unsigned type, never narrower than 32 bits.
template <class T>
using Wrapping = std::conditional_t<sizeof(T) == 8, u64, u32>;

struct Add {
  template <class T>
  auto operator()(T a, T b) const {
    using W = Wrapping<T>;
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
    else
      return a + b;
  }
};
struct Subtract {
  template <class T>
  auto operator()(T a, T b) const {
    using W = Wrapping<T>;
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<W>(a) - static_cast<W>(b));
    else
      return a - b;
  }
};
struct Multiply {
  template <class T>
  auto operator()(T a, T b) const {
    using W = Wrapping<T>;
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<W>(a) * static_cast<W>(b));
    else
      return a * b;
  }
};
struct MultiplyHigh {
  template <class T>
  auto operator()(T a, T b) const {
    if constexpr (sizeof(T) == 8) {
      using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
      return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> 64);
    } else {
      return static_cast<T>(static_cast<s64>(a) * static_cast<s64>(b) >> (8 * sizeof(T)));
    }
  }
};
// Both operands extended to the double width.
struct MultiplyWide {
  template <class T>
  auto operator()(T a, T b) const {
    using Wide = std::conditional_t<sizeof(T) == 4, u64, u32>;
    return static_cast<Wide>(a) * static_cast<Wide>(b);
  }
};
template <class T>
struct MultiplyAddWide {
  template <class Wide>
  auto operator()(T a, T b, Wide c) const {
    return static_cast<Wide>(static_cast<Wide>(a) * static_cast<Wide>(b) + c);
  }
};
struct MultiplyAdd {
  template <class T>
  auto operator()(T a, T b, T c) const {
    using W = Wrapping<T>;
    return static_cast<T>(static_cast<W>(a) * static_cast<W>(b) + static_cast<W>(c));
  }
};
struct MultiplyHighAdd {
  template <class T>
  auto operator()(T a, T b, T c) const {
    return Add()(MultiplyHigh()(a, b), c);
  }
};
struct Divide {
  template <class T>
  auto operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      if (b == 0) return static_cast<T>(-1);  // as devices do; PTX says it is not specified
      if (std::is_signed_v<T> && b == static_cast<T>(-1)) return Subtract()(T(0), a);
      return static_cast<T>(a / b);
    } else {
      return a / b;
    }
  }
};
struct Remainder {
  template <class T>
  auto operator()(T a, T b) const {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return T(0);
    return static_cast<T>(a % b);
  }
};
struct Negate {
  template <class T>
  auto operator()(T a) const {
    if constexpr (std::is_integral_v<T>)
      return Subtract()(T(0), a);
    else
      return -a;
  }
};
struct Absolute {
  template <class T>
  auto operator()(T a) const {
    if constexpr (std::is_integral_v<T>)
      return a < 0 ? Subtract()(T(0), a) : a;
    else
      return std::fabs(a);
  }
};
// Of two floats of which one is NaN, the other; -0 is less than +0.
struct Minimum {
  template <class T>
  auto operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return std::min(a, b);
    else if (a == b)
      return std::signbit(a) ? a : b;
    else
      return std::fmin(a, b);
  }
};
struct Maximum {
  template <class T>
  auto operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return std::max(a, b);
    else if (a == b)
      return std::signbit(a) ? b : a;
    else
      return std::fmax(a, b);
  }
};
struct MinimumNan {
  template <class T>
  auto operator()(T a, T b) const {
    return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : Minimum()(a, b);
  }
};
struct MaximumNan {
  template <class T>
  auto operator()(T a, T b) const {
    return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : Maximum()(a, b);
  }
};
struct And {
  template <class T>
  auto operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  auto operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  auto operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  auto operator()(T a) const {
    if constexpr (std::is_same_v<T, bool>)
      return !a;
    else
      return static_cast<T>(~a);
  }
};
struct Copy {
  template <class T>
  auto operator()(T a) const {
    return a;
  }
};
struct ShiftLeft {
  template <class T>
  T operator()(T a, u32 bits) const {
    return bits >= 8 * sizeof(T) ? T(0) : static_cast<T>(static_cast<Wrapping<T>>(a) << bits);
  }
};
struct ShiftRight {
  template <class T>
  T operator()(T a, u32 bits) const {
    if (bits < 8 * sizeof(T)) return static_cast<T>(a >> bits);
    return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T(0);
  }
};
struct Select {
  template <class T>
  T operator()(T a, T b, bool which) const {
    return which ? a : b;
  }
};
struct CountOnes {
  template <class T>
  auto operator()(T a) const {
    return static_cast<u32>(std::popcount(a));
  }
};
struct CountLeadingZeros {
  template <class T>
  auto operator()(T a) const {
    return static_cast<u32>(std::countl_zero(a));
  }
};
struct Reverse {
  template <class T>
  auto operator()(T a) const {
    T reversed = 0;
    for (unsigned i = 0; i < 8 * sizeof(T); ++i)
      reversed = static_cast<T>(reversed | (a >> i & 1) << (8 * sizeof(T) - 1 - i));
    return reversed;
  }
};
// The place of the highest bit that differs from the sign; all ones when there is none.
struct FindHighest {
  template <class T>
  auto operator()(T a) const {
    const auto bits = static_cast<std::make_unsigned_t<T>>(std::is_signed_v<T> && a < 0 ? ~a : a);
    return bits == 0
               ? ~0u
               : static_cast<u32>(8 * sizeof(T) - 1) - static_cast<u32>(std::countl_zero(bits));
  }
};
struct ExtractBits {
  template <class T>
  T operator()(T a, u32 position, u32 length) const {
    position &= 0xff;
    length &= 0xff;
    T result = 0;
    const u32 top = 8 * sizeof(T) - 1;
    const bool sign =
        std::is_signed_v<T> && length > 0 && (a >> std::min(position + length - 1, top) & 1) != 0;
    for (u32 i = 0; i <= top; ++i) {
      const bool bit = i < length && position + i <= top ? (a >> (position + i) & 1) != 0 : sign;
      if (bit) result = static_cast<T>(result | static_cast<T>(std::make_unsigned_t<T>(1) << i));
    }
    return result;
  }
};
struct InsertBits {
  template <class T>
  T operator()(T a, T b, u32 position, u32 length) const {
    for (u32 i = 0; i < (length & 0xff) && (position & 0xff) + i < 8 * sizeof(T); ++i) {
      const T bit = T(1) << ((position & 0xff) + i);
      b = (a >> i & 1) != 0 ? b | bit : b & ~bit;
    }
    return b;
  }
};
struct Permute {
  u32 operator()(u32 a, u32 b, u32 selector) const {
    const u64 both = u64{b} << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; ++i) {
      const u32 pick = selector >> (4 * i);
      u32 byte = static_cast<u32>(both >> (8 * (pick & 7)) & 0xff);
      if ((pick & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;  // its sign
      result |= byte << (8 * i);
    }
    return result;
  }
};
struct Logic3 {
  u32 operator()(u32 a, u32 b, u32 c, u32 table) const {
    u32 result = 0;
    for (u32 i = 0; i < 8; ++i)
      if ((table >> i & 1) != 0)
        result |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
    return result;
  }
};
template <bool kLeft, bool kClamp>
struct Funnel {
  u32 operator()(u32 low, u32 high, u32 bits) const {
    bits = kClamp ? std::min<u32>(bits, 32) : bits & 31;
    const u64 both = u64{high} << 32 | low;
    return static_cast<u32>(kLeft ? both << bits >> 32 : both >> bits);
  }
};

struct SquareRoot {
  template <class T>
  auto operator()(T a) const {
    return std::sqrt(a);
  }
};
struct Reciprocal {
  template <class T>
  auto operator()(T a) const {
    return T(1) / a;
  }
};
struct ReciprocalRoot {
  template <class T>
  auto operator()(T a) const {
    return T(1) / std::sqrt(a);
  }
};
struct FusedMultiplyAdd {
  template <class T>
  auto operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct PowerOfTwo {
  template <class T>
  auto operator()(T a) const {
    return std::exp2(a);
  }
};
struct Logarithm2 {
  template <class T>
  auto operator()(T a) const {
    return std::log2(a);
  }
};
struct Sine {
  template <class T>
  auto operator()(T a) const {
    return std::sin(a);
  }
};
struct Cosine {
  template <class T>
  auto operator()(T a) const {
    return std::cos(a);
  }
};
struct HyperbolicTangent {
  template <class T>
  auto operator()(T a) const {
    return std::tanh(a);
  }
};
// The sign of a on b.
struct CopySign {
  template <class T>
  auto operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};

// Comparisons; of floats the ordered ones are false for a NaN.
#define BALLOT_PTX_COMPARE(Name, expression) \
  struct Name {                              \
    template <class T>                       \
    bool operator()(T a, T b) const {        \
      return expression;                     \
    }                                        \
  };
BALLOT_PTX_COMPARE(Equal, a == b)
BALLOT_PTX_COMPARE(NotEqual, (a < b) || (b < a))
BALLOT_PTX_COMPARE(Less, a < b)
BALLOT_PTX_COMPARE(LessEqual, a <= b)
BALLOT_PTX_COMPARE(Greater, a > b)
BALLOT_PTX_COMPARE(GreaterEqual, a >= b)
#undef BALLOT_PTX_COMPARE
template <class Ordered>
struct OrNan {
  template <class T>
  bool operator()(T a, T b) const {
    return std::isunordered(a, b) || Ordered()(a, b);
  }
};
struct AreNumbers {
  template <class T>
  bool operator()(T a, T b) const {
    return !std::isunordered(a, b);
  }
};
struct IsNan {
  template <class T>
  bool operator()(T a, T b) const {
    return std::isunordered(a, b);
  }
};
// setp.lt.and.s32 p, a, b, q
template <class Compare, class Combine>
struct Combined {
  template <class T>
  bool operator()(T a, T b, bool q) const {
    return Combine()(Compare()(a, b), q);
  }
};

using Table = std::map<std::string, Run>;

template <class Compare, class T>
void add_comparison(Table& table, const std::string& compare, const std::string& type) {
  table["setp." + compare + "." + type] = map<Compare, bool, T, T>;
  table["setp." + compare + ".and." + type] = map<Combined<Compare, And>, bool, T, T, bool>;
  table["setp." + compare + ".or." + type] = map<Combined<Compare, Or>, bool, T, T, bool>;
  table["setp." + compare + ".xor." + type] = map<Combined<Compare, Xor>, bool, T, T, bool>;
}

template <class T>
void add_integer(Table& table, const std::string& type) {
  table["add." + type] = map<Add, T, T, T>;
  table["sub." + type] = map<Subtract, T, T, T>;
  table["mul.lo." + type] = map<Multiply, T, T, T>;
  table["mul.hi." + type] = map<MultiplyHigh, T, T, T>;
  table["mad.lo." + type] = map<MultiplyAdd, T, T, T, T>;
  table["mad.hi." + type] = map<MultiplyHighAdd, T, T, T, T>;
  table["div." + type] = map<Divide, T, T, T>;
  table["rem." + type] = map<Remainder, T, T, T>;
  table["min." + type] = map<Minimum, T, T, T>;
  table["max." + type] = map<Maximum, T, T, T>;
  table["shr." + type] = map<ShiftRight, T, T, u32>;
  table["mov." + type] = map<Copy, T, T>;
  table["selp." + type] = map<Select, T, T, T, bool>;
  if constexpr (std::is_signed_v<T>) {
    table["neg." + type] = map<Negate, T, T>;
    table["abs." + type] = map<Absolute, T, T>;
  }
  if constexpr (sizeof(T) < 8) {
    using Wide =
        std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, u64>,
                           std::conditional_t<std::is_signed_v<T>, s32, u32>>;
    table["mul.wide." + type] = map<MultiplyWide, std::make_unsigned_t<Wide>, T, T>;
    table["mad.wide." + type] =
        map<MultiplyAddWide<T>, std::make_unsigned_t<Wide>, T, T, std::make_unsigned_t<Wide>>;
  }
  if constexpr (sizeof(T) >= 4) {
    table["bfind." + type] = map<FindHighest, u32, T>;
    table["bfe." + type] = map<ExtractBits, T, T, u32, u32>;
  }
  add_comparison<Equal, T>(table, "eq", type);
  add_comparison<NotEqual, T>(table, "ne", type);
  add_comparison<Less, T>(table, "lt", type);
  add_comparison<LessEqual, T>(table, "le", type);
  add_comparison<Greater, T>(table, "gt", type);
  add_comparison<GreaterEqual, T>(table, "ge", type);
}

template <class T>
void add_bits(Table& table, const std::string& type) {
  table["and." + type] = map<And, T, T, T>;
  table["or." + type] = map<Or, T, T, T>;
  table["xor." + type] = map<Xor, T, T, T>;
  table["not." + type] = map<Not, T, T>;
  table["mov." + type] = map<Copy, T, T>;
  if constexpr (!std::is_same_v<T, bool>) {
    table["shl." + type] = map<ShiftLeft, T, T, u32>;
    table["shr." + type] = map<ShiftRight, T, T, u32>;
    table["selp." + type] = map<Select, T, T, T, bool>;
    add_comparison<Equal, T>(table, "eq", type);
    add_comparison<NotEqual, T>(table, "ne", type);
  }
  if constexpr (sizeof(T) >= 4) {
    table["popc." + type] = map<CountOnes, u32, T>;
    table["clz." + type] = map<CountLeadingZeros, u32, T>;
    table["brev." + type] = map<Reverse, T, T>;
    table["bfi." + type] = map<InsertBits, T, T, T, u32, u32>;
  }
}

// "add.f32", "add.rn.f32", "add.rm.f32", ...: without a rounding it is to nearest.
template <class F, class T, class... From>
void add_rounded(Table& table, const std::string& name, const std::string& type,
                 bool needs_rounding) {
  const auto add = [&]<class G>(const std::string& modifiers) {
    if (!needs_rounding) table[name + modifiers + "." + type] = map<G, T, From...>;
    table[name + ".rn" + modifiers + "." + type] = map<G, T, From...>;
    table[name + ".rz" + modifiers + "." + type] = map_rounding<G, FE_TOWARDZERO, T, From...>;
    table[name + ".rm" + modifiers + "." + type] = map_rounding<G, FE_DOWNWARD, T, From...>;
    table[name + ".rp" + modifiers + "." + type] = map_rounding<G, FE_UPWARD, T, From...>;
  };
  add.template operator()<F>("");
  if constexpr (sizeof(T) == 4) {
    add.template operator()<Flushed<F>>(".ftz");
    add.template operator()<Saturated<F>>(".sat");
    add.template operator()<Saturated<Flushed<F>>>(".ftz.sat");
  }
}

// "ex2.approx.f32" and "ex2.approx.ftz.f32".
template <class F, class T, class... From>
void add_flushed(Table& table, const std::string& name, const std::string& type) {
  table[name + "." + type] = map<F, T, From...>;
  if constexpr (sizeof(T) == 4) table[name + ".ftz." + type] = map<Flushed<F>, T, From...>;
}

template <class T>
void add_float(Table& table, const std::string& type) {
  add_rounded<Add, T, T, T>(table, "add", type, false);
  add_rounded<Subtract, T, T, T>(table, "sub", type, false);
  add_rounded<Multiply, T, T, T>(table, "mul", type, false);
  add_rounded<FusedMultiplyAdd, T, T, T, T>(table, "fma", type, true);
  add_rounded<Divide, T, T, T>(table, "div", type, true);
  add_rounded<Reciprocal, T, T>(table, "rcp", type, true);
  add_rounded<SquareRoot, T, T>(table, "sqrt", type, true);
  add_flushed<Negate, T, T>(table, "neg", type);
  add_flushed<Absolute, T, T>(table, "abs", type);
  add_flushed<Minimum, T, T, T>(table, "min", type);
  add_flushed<Maximum, T, T, T>(table, "max", type);
  table["mov." + type] = map<Copy, T, T>;
  table["selp." + type] = map<Select, T, T, T, bool>;
  table["copysign." + type] = map<CopySign, T, T, T>;
  add_flushed<ReciprocalRoot, T, T>(table, "rsqrt.approx", type);
  add_flushed<Reciprocal, T, T>(table, "rcp.approx", type);
  if constexpr (sizeof(T) == 4) {
    add_flushed<MinimumNan, T, T, T>(table, "min.NaN", type);
    add_flushed<MaximumNan, T, T, T>(table, "max.NaN", type);
    add_flushed<Divide, T, T, T>(table, "div.approx", type);
    add_flushed<Divide, T, T, T>(table, "div.full", type);
    add_flushed<SquareRoot, T, T>(table, "sqrt.approx", type);
    add_flushed<PowerOfTwo, T, T>(table, "ex2.approx", type);
    add_flushed<Logarithm2, T, T>(table, "lg2.approx", type);
    add_flushed<Sine, T, T>(table, "sin.approx", type);
    add_flushed<Cosine, T, T>(table, "cos.approx", type);
    table["tanh.approx." + type] = map<HyperbolicTangent, T, T>;
  } else {
    table["rcp.approx.ftz.f64"] = nullptr;  // of 20 bits: only inside of a division, not known
  }
  add_comparison<Equal, T>(table, "eq", type);
  add_comparison<NotEqual, T>(table, "ne", type);
  add_comparison<Less, T>(table, "lt", type);
  add_comparison<LessEqual, T>(table, "le", type);
  add_comparison<Greater, T>(table, "gt", type);
  add_comparison<GreaterEqual, T>(table, "ge", type);
  add_comparison<OrNan<Equal>, T>(table, "equ", type);
  add_comparison<OrNan<NotEqual>, T>(table, "neu", type);
  add_comparison<OrNan<Less>, T>(table, "ltu", type);
  add_comparison<OrNan<LessEqual>, T>(table, "leu", type);
  add_comparison<OrNan<Greater>, T>(table, "gtu", type);
  add_comparison<OrNan<GreaterEqual>, T>(table, "geu", type);
  add_comparison<AreNumbers, T>(table, "num", type);
  add_comparison<IsNan, T>(table, "nan", type);
}

Table make_table() {
  Table table;
  add_integer<u16>(table, "u16");
  add_integer<s16>(table, "s16");
  add_integer<u32>(table, "u32");
  add_integer<s32>(table, "s32");
  add_integer<u64>(table, "u64");
  add_integer<s64>(table, "s64");
  add_bits<bool>(table, "pred");
  add_bits<u16>(table, "b16");
  add_bits<u32>(table, "b32");
  add_bits<u64>(table, "b64");
  add_float<f32>(table, "f32");
  add_float<f64>(table, "f64");
  table["prmt.b32"] = map<Permute, u32, u32, u32, u32>;
  table["lop3.b32"] = map<Logic3, u32, u32, u32, u32, u32>;
  table["shf.l.wrap.b32"] = map<Funnel<true, false>, u32, u32, u32, u32>;
  table["shf.l.clamp.b32"] = map<Funnel<true, true>, u32, u32, u32, u32>;
  table["shf.r.wrap.b32"] = map<Funnel<false, false>, u32, u32, u32, u32>;
  table["shf.r.clamp.b32"] = map<Funnel<false, true>, u32, u32, u32, u32>;
  return table;
}

// Conversions.

template <class To, class From>
To float_to_integer(From x, const Operation& operation) {
  if (operation.flush) x = flush(x);
  if (std::isnan(x)) return sizeof(To) == 8 ? static_cast<To>(std::uint64_t{1} << 63) : To(0);
  switch (operation.rounding) {
    case Operation::Rounding::nearest:
      x = std::nearbyint(x);
      break;
    case Operation::Rounding::zero:
      x = std::trunc(x);
      break;
    case Operation::Rounding::down:
      x = std::floor(x);
      break;
    case Operation::Rounding::up:
      x = std::ceil(x);
      break;
  }
  // The limits are powers of two, or one less: exact in long double.
  const auto wide = static_cast<long double>(x);
  if (wide <= static_cast<long double>(std::numeric_limits<To>::min()))
    return std::numeric_limits<To>::min();
  if (wide >= static_cast<long double>(std::numeric_limits<To>::max()))
    return std::numeric_limits<To>::max();
  return static_cast<To>(x);
}

template <class To, class From>
To integer_to_integer(From x, const Operation& operation) {
  if (!operation.saturate) return static_cast<To>(x);
  const auto wide = static_cast<__int128>(x);
  return static_cast<To>(std::clamp(wide, static_cast<__int128>(std::numeric_limits<To>::min()),
                                    static_cast<__int128>(std::numeric_limits<To>::max())));
}

template <class To, class From>
To to_float(From x, const Operation& operation) {
  To result;
  if constexpr (std::is_floating_point_v<From>) {
    if (operation.flush) x = flush(x);
    if (operation.to_integral) {
      switch (operation.rounding) {
        case Operation::Rounding::nearest:
          x = std::nearbyint(x);
          break;
        case Operation::Rounding::zero:
          x = std::trunc(x);
          break;
        case Operation::Rounding::down:
          x = std::floor(x);
          break;
        case Operation::Rounding::up:
          x = std::ceil(x);
          break;
      }
    }
  }
  result = static_cast<To>(x);
  if (operation.saturate) result = std::isnan(result) ? To(0) : std::clamp(result, To(0), To(1));
  return operation.flush ? flush(result) : result;
}

template <class To, class From>
void convert(Step& step, const Operation& operation) {
  static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  if (std::is_floating_point_v<To> && !operation.to_integral)
    std::fesetround(kModes[static_cast<int>(operation.rounding)]);
  Slot& to = step[operation.to[0]];
  const Slot& from = step[operation.from[0]];
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    if ((step.lanes >> lane & 1) == 0) continue;
    const From x = value_of<From>(from[lane]);
    To result;
    if constexpr (std::is_floating_point_v<To>)
      result = to_float<To>(x, operation);
    else if constexpr (std::is_floating_point_v<From>)
      result = float_to_integer<To>(x, operation);
    else
      result = integer_to_integer<To>(x, operation);
    // A narrow integer in a wider register is extended.
    if constexpr (std::is_integral_v<To> && std::is_signed_v<To>)
      to[lane] = static_cast<u64>(static_cast<s64>(result));
    else
      to[lane] = word_of(result);
  }
  std::fesetround(FE_TONEAREST);
}

template <class To>
Run find_conversion_from(const std::string& from) {
  if (from == "u8") return convert<To, u8>;
  if (from == "s8") return convert<To, s8>;
  if (from == "u16") return convert<To, u16>;
  if (from == "s16") return convert<To, s16>;
  if (from == "u32") return convert<To, u32>;
  if (from == "s32") return convert<To, s32>;
  if (from == "u64") return convert<To, u64>;
  if (from == "s64") return convert<To, s64>;
  if (from == "f32") return convert<To, f32>;
  if (from == "f64") return convert<To, f64>;
  return nullptr;
}

}  // namespace

Run find_arithmetic(const std::string& opcode) {
  static const Table table = make_table();
  const auto found = table.find(opcode);
  return found == table.end() ? nullptr : found->second;
}

Run find_conversion(const std::string& to, const std::string& from) {
  if (to == "u8") return find_conversion_from<u8>(from);
  if (to == "s8") return find_conversion_from<s8>(from);
  if (to == "u16") return find_conversion_from<u16>(from);
  if (to == "s16") return find_conversion_from<s16>(from);
  if (to == "u32") return find_conversion_from<u32>(from);
  if (to == "s32") return find_conversion_from<s32>(from);
  if (to == "u64") return find_conversion_from<u64>(from);
  if (to == "s64") return find_conversion_from<s64>(from);
  if (to == "f32") return find_conversion_from<f32>(from);
  if (to == "f64") return find_conversion_from<f64>(from);
  return nullptr;
}

}  // namespace ballot::ptx
