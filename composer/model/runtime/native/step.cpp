// M tokens through all decoder layers on a CPU, in one call: one token of each row of a batch, or the tokens of
// a few short prompts.
//
// A token of a small model is hundreds of products of a few microseconds each. What costs is reading the
// weights and, between products, the barriers of the threads and the calls of a framework. So the whole step
// runs in one team of threads, weights are read in the storage that is smallest (see storage.py), and
// whatever is between two products is done where its input is.
//
// The arithmetic is float32 throughout. Layer by layer it is composer/model/runtime/llama/layer.py.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

// LANES: floats of a vector, which is one register; compilers take wider ones apart through memory.
// TILE, TOKENS: output features and rows of the batch that are multiplied at once, as many as the registers
// hold sums of.
#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 5, TOKENS = 5;  // of 32 registers
#elif defined(__AVX2__) && defined(__F16C__)
#define COMPOSER_AVX2
constexpr int LANES = 8, TILE = 4, TOKENS = 3;  // of 16
#elif defined(__aarch64__)
constexpr int LANES = 4, TILE = 5, TOKENS = 5;  // of 32
#else
constexpr int LANES = 4, TILE = 4, TOKENS = 3;  // of 16
#endif
constexpr int TOGETHER = 4;    // output features that one row is multiplied with at once
constexpr int WIDE = 4;        // vectors of one row that are summed at once
constexpr int LINE = 16;       // floats of a cache line: no two threads write to the same
constexpr int GROUP = 32;      // weights that share a scale
constexpr int BLOCK = 64;      // weights of NF4 that share a scale
constexpr size_t BYTES = 4 * LINE;  // of a cache line
constexpr int FETCH = 4096;    // bytes that weights are fetched ahead of one row's product

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
struct Half {  // float16, as its bits: older compilers have no type for it
  uint16_t bits;
};

typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Memory that begins with a cache line: a vector that lies in two of them is read twice.
template <typename T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U> &) {}
  T *allocate(size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), std::align_val_t(BYTES))); }
  void deallocate(T *x, size_t) { ::operator delete(x, std::align_val_t(BYTES)); }
  bool operator==(const Aligned &) const { return true; }
};
using Numbers = std::vector<float, Aligned<float>>;

// --- what Python passes: the same fields in the same order as in structures.py ------------------------------

enum Storage : int64_t { F32, BF16, F16, U4, I8, NF4 };

struct Matrix {
  int64_t storage, rows, columns;
  const void *data;        // [rows, columns] in the storage
  const void *scale;       // Half [rows, columns / GROUP] for U4 and I8, float [rows, columns / BLOCK] for NF4
  const Half *offset;      // [rows, columns / GROUP] for U4
  const float *bias;       // [rows] or null
};

struct AdapterSlice {  // an adapter at a site, with its columns behind those of the one before it
  int64_t adapter, rank;
  const float *gram;    // [rank, rank]: B^T B
};

struct SiteSlice {
  int64_t left, right;  // its output features of the group
  int64_t top, bottom;  // its rank columns of the group
  int64_t place;        // of the site among all of them
  Matrix B;             // [bottom - top, right - left]: B transposed, in F32 or BF16
  int64_t parts;
  const AdapterSlice *part;
};

struct Linear {  // layers with the same input, and the adapters' factors at them
  Matrix weight;
  Matrix A;             // [rank, columns]
  int64_t rank, start;  // the group's columns on the layer's part of Z
  int64_t sites;
  const SiteSlice *site;
};

struct Layer {
  Linear qkv, o, gate_up, down;
  const float *attention_norm, *mlp_norm;       // [d]
  const float *q_norm, *k_norm;                 // [D] or null
  const float *post_attention, *post_mlp;       // [d] or null
  int64_t window;                               // tokens that are attended to; 0: all
  int64_t rope;                                 // which table
  int64_t origin;                               // the layer's first column on Z
};

struct Model {
  int64_t layers, hidden, heads, kv_heads, width, inner, gelu;
  float eps, scaling, embedding_scale, padding;
  const Layer *layer;
  const float *embedding;      // [V, d]
  const float *norm;           // [d]
  Matrix head;                 // [V, d]
};

// How tokens share out their gates at every site; composer/model/runtime/token_routing.py has the formulas.
struct Router {
  int64_t sites, adapters;      // S, N
  const uint8_t *part;          // [M, S, N]: who takes part; nobody in a row that is not routed
  const float *keep, *swing;    // [M], [M, S]: an adapter's factor is keep + swing * share
  const uint8_t *by_norm;       // [M]: the score is the norm of what an adapter adds, or along its direction
  const int64_t *top;           // [M]: how many adapters have a share
  const float *scaling;         // [Z]: its own
  const float *prototype;       // [Z]
};

struct Step {
  int64_t rows, length;         // M; length: positions of a slot of the cache
  int64_t rope_length;          // of the rope's tables
  int64_t ranks, adapters;      // Z, N
  int64_t outs;                 // O, how many tokens' logits are wanted
  const int64_t *tokens, *positions, *slots;   // [M]
  const int64_t *last;          // [O]: which tokens'
  float *const *cache;          // per layer [slots, 2K, length, D]
  const float *const *rope;     // per table cos and signed sin, [2, rope_length, D]
  const float *scales;          // [M, Z]
  float *coded;                 // [M, Z]: z = (x A^T) * scale
  float *energy;                // [M, L]: sum over the sites of |W0 x|^2
  float *contribution;          // [M, L, N], as in composer/model/contribution.py
  float *logits;                // [O, V]
  float *hidden;                // [L, M, d]: the states after each layer; or null
  const Router *router;         // null where no row is routed
};

// --- vectors -------------------------------------------------------------------------------------------------

inline Floats load(const float *x) { return *reinterpret_cast<const Floats *>(x); }
inline void store(float *x, Floats v) { *reinterpret_cast<Floats *>(x) = v; }
inline Floats all(float x) { return Floats{} + x; }

inline float total(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512 &>(v));
#elif defined(COMPOSER_AVX2)
  const __m256 whole = reinterpret_cast<__m256 &>(v);
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(whole), _mm256_extractf128_ps(whole, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
#else
  float sums[LANES];
  std::memcpy(sums, &v, sizeof sums);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int j = 0; j < width; j++) sums[j] += sums[j + width];
  return sums[0];
#endif
}

// e^x to about two units in the last place; 0 below -87.
inline Floats exponential(Floats x) {
  Floats low = all(-87.3f), high = all(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  Floats turns = x * 1.44269504f;
  Ints whole = __builtin_convertvector(turns + (turns < 0 ? all(-0.5f) : all(0.5f)), Ints);
  Floats n = __builtin_convertvector(whole, Floats);
  Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Ints bits = reinterpret_cast<Ints &>(p) + (whole << 23);
  return reinterpret_cast<Floats &>(bits);
}

inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }

inline Floats gelu(Floats x) {  // the approximation by tanh
  Floats inner = 0.7978845608f * (x + 0.044715f * x * x * x);
  return x - x / (1.0f + exponential(2.0f * inner));
}

inline float dot(const float *a, const float *b, int64_t n) {
  Floats one = {}, two = {};  // in turn, since one addition waits for the last to the same
  int64_t k = 0;
  for (; k + 2 * LANES <= n; k += 2 * LANES) {
    one += load(a + k) * load(b + k);
    two += load(a + k + LANES) * load(b + k + LANES);
  }
  for (; k + LANES <= n; k += LANES) one += load(a + k) * load(b + k);
  float sum = total(one + two);
  for (; k < n; k++) sum += a[k] * b[k];
  return sum;
}

// The largest of |x|.
inline float largest(const float *x, int64_t n) {
  Floats tops = {};
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) {
    Floats size = load(x + k);
    size = size < 0 ? -size : size;
    tops = size > tops ? size : tops;
  }
  float top = 0;
  for (int j = 0; j < LANES; j++) top = std::max(top, tops[j]);
  for (; k < n; k++) top = std::max(top, std::abs(x[k]));
  return top;
}

// z^T G z of an adapter's gram matrix, [rank, rank].
inline float square(const float *gram, const float *z, int64_t rank) {
  constexpr int FEW = std::min(LANES, 8);  // most ranks are multiples of 8
  typedef float Some __attribute__((vector_size(4 * FEW), aligned(4), may_alias));
  Some sums = {};
  int64_t k = 0;
  for (; k + FEW <= rank; k += FEW) {
    Some columns = {};
    for (int64_t i = 0; i < rank; i++) columns += z[i] * *reinterpret_cast<const Some *>(gram + i * rank + k);
    sums += columns * *reinterpret_cast<const Some *>(z + k);
  }
  float sum = 0;
  for (int j = 0; j < FEW; j++) sum += sums[j];
  for (; k < rank; k++)
    for (int64_t i = 0; i < rank; i++) sum += z[i] * gram[i * rank + k] * z[k];
  return sum;
}

// y += s x
inline void add_scaled(float *y, const float *x, float s, int64_t n) {
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) store(y + k, load(y + k) + s * load(x + k));
  for (; k < n; k++) y[k] += s * x[k];
}

void rms_norm(float *out, const float *x, const float *weight, float eps, int64_t n) {
  float scale = 1.0f / std::sqrt(dot(x, x, n) / n + eps);
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) store(out + k, load(weight + k) * (load(x + k) * scale));
  for (; k < n; k++) out[k] = weight[k] * (x[k] * scale);
}

// A float16 number as float32.
inline float single(Half half) {
#if defined(__F16C__)
  return _cvtsh_ss(half.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000) << 16, low = half.bits & 0x7fff;
  float number;
  uint32_t bits = low << 13;
  if (low >= 0x7c00) {
    bits += (255 - 31) << 23;  // infinite or no number
  } else {
    bits += (127 - 15) << 23;
    if (low < 0x400) {  // below the smallest normal number: an exponent too many, and a 1 before the point
      bits += 1 << 23;
      const uint32_t one = (127 - 14) << 23;
      float shifted, first;
      std::memcpy(&shifted, &bits, sizeof shifted);
      std::memcpy(&first, &one, sizeof first);
      shifted -= first;
      std::memcpy(&bits, &shifted, sizeof bits);
    }
  }
  bits |= sign;
  std::memcpy(&number, &bits, sizeof number);
  return number;
#endif
}

// --- weights in their storages -------------------------------------------------------------------------------

// What the 4 bits of NF4 stand for: bitsandbytes.functional.get_4bit_type("nf4"). A byte has two weights, the
// first in its high half.
alignas(64) constexpr float LEVELS[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// LANES numbers as float32. Compilers turn the plain loops into one instruction a number; where the processor
// has one for all of them it is asked for by name.
inline Floats widened(const float *x) { return load(x); }
#if defined(__AVX512F__)
inline Floats from(__m512i whole) { return reinterpret_cast<Floats>(_mm512_cvtepi32_ps(whole)); }
inline __m128i sixteen(const void *x) { return _mm_loadu_si128(static_cast<const __m128i *>(x)); }
inline __m256i thirty_two(const void *x) { return _mm256_loadu_si256(static_cast<const __m256i *>(x)); }

inline Floats widened(const uint16_t *bf16) {
  __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(thirty_two(bf16)), 16);
  return reinterpret_cast<Floats>(_mm512_castsi512_ps(bits));
}
inline Floats widened(const Half *f16) {
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(thirty_two(f16)));
}
inline Floats widened(const int8_t *bytes) { return from(_mm512_cvtepi8_epi32(sixteen(bytes))); }
inline void nibbles(const uint8_t *bytes, Floats &low, Floats &high) {
  __m512i both = _mm512_cvtepu8_epi32(sixteen(bytes));
  low = from(_mm512_and_si512(both, _mm512_set1_epi32(15)));
  high = from(_mm512_srli_epi32(both, 4));
}
// The instruction looks at the last 4 bits of each index.
inline void levels(const uint8_t *bytes, Floats &even, Floats &odd) {
  const __m512 table = _mm512_load_ps(LEVELS);
  __m512i both = _mm512_cvtepu8_epi32(sixteen(bytes));
  even = reinterpret_cast<Floats>(_mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), table));
  odd = reinterpret_cast<Floats>(_mm512_permutexvar_ps(both, table));
}
inline void store_in_turn(float *y, Floats even, Floats odd) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const __m512 a = reinterpret_cast<__m512>(even), b = reinterpret_cast<__m512>(odd);
  _mm512_storeu_ps(y, _mm512_permutex2var_ps(a, first, b));
  _mm512_storeu_ps(y + LANES, _mm512_permutex2var_ps(a, second, b));
}
#elif defined(COMPOSER_AVX2)
inline Floats from(__m256i whole) { return reinterpret_cast<Floats>(_mm256_cvtepi32_ps(whole)); }
inline __m128i eight(const void *x) { return _mm_loadl_epi64(static_cast<const __m128i *>(x)); }
inline __m128i sixteen(const void *x) { return _mm_loadu_si128(static_cast<const __m128i *>(x)); }

inline Floats widened(const uint16_t *bf16) {
  __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(sixteen(bf16)), 16);
  return reinterpret_cast<Floats>(_mm256_castsi256_ps(bits));
}
inline Floats widened(const Half *f16) { return reinterpret_cast<Floats>(_mm256_cvtph_ps(sixteen(f16))); }
inline Floats widened(const int8_t *bytes) { return from(_mm256_cvtepi8_epi32(eight(bytes))); }
inline void nibbles(const uint8_t *bytes, Floats &low, Floats &high) {
  __m256i both = _mm256_cvtepu8_epi32(eight(bytes));
  low = from(_mm256_and_si256(both, _mm256_set1_epi32(15)));
  high = from(_mm256_srli_epi32(both, 4));
}
// An instruction looks at the last 3 bits of each index, and the fourth chooses between two of them.
inline Floats levels_at(__m256i index) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(LEVELS), index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(LEVELS + 8), index);
  return reinterpret_cast<Floats>(
      _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
}
inline void levels(const uint8_t *bytes, Floats &even, Floats &odd) {
  __m256i both = _mm256_cvtepu8_epi32(eight(bytes));
  even = levels_at(_mm256_srli_epi32(both, 4));
  odd = levels_at(both);
}
#else
template <typename T>
inline Floats each(const T *x) {
  Floats out;
  for (int j = 0; j < LANES; j++) out[j] = static_cast<float>(x[j]);
  return out;
}
inline Floats widened(const uint16_t *bf16) {
  Ints bits;
  for (int j = 0; j < LANES; j++) bits[j] = static_cast<int32_t>(static_cast<uint32_t>(bf16[j]) << 16);
  return reinterpret_cast<Floats &>(bits);
}
inline Floats widened(const Half *f16) {
  Floats out;
  for (int j = 0; j < LANES; j++) out[j] = single(f16[j]);
  return out;
}
inline Floats widened(const int8_t *bytes) { return each(bytes); }
inline void nibbles(const uint8_t *bytes, Floats &low, Floats &high) {
  for (int j = 0; j < LANES; j++) low[j] = bytes[j] & 15, high[j] = bytes[j] >> 4;
}
inline void levels(const uint8_t *bytes, Floats &even, Floats &odd) {
  for (int j = 0; j < LANES; j++) even[j] = LEVELS[bytes[j] >> 4], odd[j] = LEVELS[bytes[j] & 15];
}
#endif
#if !defined(__AVX512F__)
inline void store_in_turn(float *y, Floats even, Floats odd) {
  for (int j = 0; j < LANES; j++) y[2 * j] = even[j], y[2 * j + 1] = odd[j];
}
#endif

template <typename T>
inline const T *row_of(const Matrix &w, int64_t row) {
  return static_cast<const T *>(w.data) + row * w.columns;
}

inline float single(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}
inline float single(float x) { return x; }

// y += z B of a matrix B [ranks, stride] of which y has n columns. Returns |y|^2 from before.
template <typename T>
float add_product(float *y, const T *B, int64_t stride, int64_t ranks, const float *z, int64_t n) {
  Floats squares = {};
  int64_t k = 0;
  for (; k + WIDE * LANES <= n; k += WIDE * LANES) {
    Floats sum[WIDE];
#pragma GCC unroll 4
    for (int c = 0; c < WIDE; c++) {
      sum[c] = load(y + k + c * LANES);
      squares += sum[c] * sum[c];
    }
    for (int64_t r = 0; r < ranks; r++) {
      if (z[r] == 0.0f) continue;
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; c++) sum[c] += z[r] * widened(B + r * stride + k + c * LANES);
    }
#pragma GCC unroll 4
    for (int c = 0; c < WIDE; c++) store(y + k + c * LANES, sum[c]);
  }
  for (; k + LANES <= n; k += LANES) {
    Floats sum = load(y + k);
    squares += sum * sum;
    for (int64_t r = 0; r < ranks; r++)
      if (z[r] != 0.0f) sum += z[r] * widened(B + r * stride + k);
    store(y + k, sum);
  }
  float rest = 0.0f;
  for (; k < n; k++) {
    rest += y[k] * y[k];
    for (int64_t r = 0; r < ranks; r++)
      if (z[r] != 0.0f) y[k] += z[r] * single(B[r * stride + k]);
  }
  return total(squares) + rest;
}

// Bytes of a row of W, without its scales.
inline int64_t row_bytes(const Matrix &w) {
  switch (w.storage) {
    case F32:
      return 4 * w.columns;
    case BF16:
    case F16:
      return 2 * w.columns;
    case I8:
      return w.columns;
    default:
      return w.columns / 2;
  }
}

// Memory to fetch while something else is computed: `step` bytes further each time.
struct Ahead {
  const char *at;
  int64_t step;

  void fetch_line() {
    __builtin_prefetch(at, 0, 2);
    at += step;
  }

  void fetch_lines() {
    for (int64_t byte = 0; byte < step; byte += BYTES) __builtin_prefetch(at + byte, 0, 2);
    at += step;
  }
};

// out[r] = <row r of data, x> of N rows of numbers that stand alone.
template <int N, typename T>
inline void dot_plain(const T *data, const float *x, int64_t n, float *out) {
  Floats sum[N];
#pragma GCC unroll 8
  for (int r = 0; r < N; r++) sum[r] = Floats{};
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) {
    const Floats column = load(x + k);
#pragma GCC unroll 8
    for (int r = 0; r < N; r++) sum[r] += widened(data + r * n + k) * column;
  }
#pragma GCC unroll 8
  for (int r = 0; r < N; r++) out[r] = total(sum[r]);
  for (; k < n; k++)
    for (int r = 0; r < N; r++) out[r] += single(data[r * n + k]) * x[k];
}

// out[r] = <row r, x> of N rows of `count` groups. part(r, g) is what a group gives but for its scale; sums
// are what a row begins with, and its scales [N, count].
template <int N, typename Part>
inline void dot_groups(int64_t count, const float *scale, Floats *sums, Part part, float *out, Ahead ahead) {
  Floats sum[N];
#pragma GCC unroll 8
  for (int r = 0; r < N; r++) sum[r] = sums[r];
  for (int64_t g = 0; g < count; g++) {
    ahead.fetch_lines();
#pragma GCC unroll 8
    for (int r = 0; r < N; r++) sum[r] += scale[r * count + g] * part(r, g);
  }
#pragma GCC unroll 8
  for (int r = 0; r < N; r++) out[r] = total(sum[r]);
}

// `count` numbers as float32 and LANES zeros, in `room`.
inline const float *floats_of(const Half *x, int64_t count, float *room) {
  int64_t k = 0;
  for (; k + LANES <= count; k += LANES) store(room + k, widened(x + k));
  for (; k < count; k++) room[k] = single(x[k]);
  store(room + count, Floats{});
  return room;
}

// What products with one row of x need beside it.
struct Arranged {
  const float *x;
  const float *sums;    // of each GROUP of x, and LANES zeros
  const float *turned;  // x with the even places of 2 * LANES before the odd ones
};

// out[r] = <row first + r of W, x>, r in [0, N). room: for the scales of two times N rows.
template <int N>
void dot_rows(const Matrix &w, int64_t first, const Arranged &at, float *room, float *out) {
  const int64_t n = w.columns, groups = n / GROUP, from = first * groups;
  const float *x = at.x;
  Floats sums[N] = {};
  const int64_t bytes = N * row_bytes(w);
  const Ahead ahead{static_cast<const char *>(w.data) + first * row_bytes(w) + FETCH,
                    bytes / std::max<int64_t>(1, w.storage == NF4 ? n / BLOCK : groups)};
  switch (w.storage) {
    case F32:
      return dot_plain<N>(row_of<float>(w, first), x, n, out);
    case BF16:
      return dot_plain<N>(row_of<uint16_t>(w, first), x, n, out);
    case F16:
      return dot_plain<N>(row_of<Half>(w, first), x, n, out);
    case U4: {
      const uint8_t *data = static_cast<const uint8_t *>(w.data) + first * (n / 2);
      const float *scale = floats_of(static_cast<const Half *>(w.scale) + from, N * groups, room);
      const float *offset = floats_of(w.offset + from, N * groups, room + N * groups + LANES);
      for (int64_t g = 0; g < groups; g += LANES)
        for (int r = 0; r < N; r++) sums[r] += load(offset + r * groups + g) * load(at.sums + g);
      return dot_groups<N>(groups, scale, sums, [&](int r, int64_t g) {
        const uint8_t *bytes = data + (r * n + g * GROUP) / 2;
        const float *part = x + g * GROUP;
        Floats one = {}, low, high;
        for (int j = 0; j < GROUP / 2; j += LANES) {
          nibbles(bytes + j, low, high);
          one += low * load(part + j) + high * load(part + GROUP / 2 + j);
        }
        return one;
      }, out, ahead);
    }
    case NF4: {
      const uint8_t *data = static_cast<const uint8_t *>(w.data) + first * (n / 2);
      const float *scale = static_cast<const float *>(w.scale) + first * (n / BLOCK);
      return dot_groups<N>(n / BLOCK, scale, sums, [&](int r, int64_t block) {
        Floats one = {}, even, odd;
        for (int64_t k = block * BLOCK; k < (block + 1) * BLOCK; k += 2 * LANES) {
          levels(data + (r * n + k) / 2, even, odd);
          one += even * load(at.turned + k) + odd * load(at.turned + k + LANES);
        }
        return one;
      }, out, ahead);
    }
    default: {
      const int8_t *data = row_of<int8_t>(w, first);
      const float *scale = floats_of(static_cast<const Half *>(w.scale) + from, N * groups, room);
      return dot_groups<N>(groups, scale, sums, [&](int r, int64_t g) {
        Floats one = {};
        for (int64_t k = g * GROUP; k < (g + 1) * GROUP; k += LANES)
          one += widened(data + r * n + k) * load(x + k);
        return one;
      }, out, ahead);
    }
  }
}

// A row of W as float32: where it lies, or in `room`.
const float *plain_row(const Matrix &w, int64_t row, float *room) {
  const int64_t n = w.columns, groups = n / GROUP;
  const Half *scales = static_cast<const Half *>(w.scale);
  switch (w.storage) {
    case F32:
      return row_of<float>(w, row);
    case BF16:
      for (int64_t k = 0; k < n; k += LANES) store(room + k, widened(row_of<uint16_t>(w, row) + k));
      return room;
    case F16:
      for (int64_t k = 0; k < n; k += LANES) store(room + k, widened(row_of<Half>(w, row) + k));
      return room;
    case U4:
      for (int64_t g = 0; g < groups; g++) {
        const uint8_t *part = static_cast<const uint8_t *>(w.data) + (row * n + g * GROUP) / 2;
        const float scale = single(scales[row * groups + g]), offset = single(w.offset[row * groups + g]);
        for (int j = 0; j < GROUP / 2; j += LANES) {
          Floats low, high;
          nibbles(part + j, low, high);
          store(room + g * GROUP + j, low * scale + offset);
          store(room + g * GROUP + GROUP / 2 + j, high * scale + offset);
        }
      }
      return room;
    case NF4:
      for (int64_t k = 0; k < n; k += 2 * LANES) {
        const float scale = static_cast<const float *>(w.scale)[(row * n + k) / BLOCK];
        Floats even, odd;
        levels(static_cast<const uint8_t *>(w.data) + (row * n + k) / 2, even, odd);
        store_in_turn(room + k, even * scale, odd * scale);
      }
      return room;
    default:
      for (int64_t g = 0; g < groups; g++) {
        const float scale = single(scales[row * groups + g]);
        for (int64_t k = g * GROUP; k < (g + 1) * GROUP; k += LANES)
          store(room + k, widened(row_of<int8_t>(w, row) + k) * scale);
      }
      return room;
  }
}

// TILE rows of W with N rows of x; out[i][j] = <w_i, x_j>.
template <int N>
void dot_tile(const float *const *w, const float *x, int64_t stride, int64_t n, float (*out)[TOKENS],
              Ahead ahead) {
  Floats sum[TILE][N];
#pragma GCC unroll 8
  for (int i = 0; i < TILE; i++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) sum[i][j] = Floats{};
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) {
    ahead.fetch_line();
    Floats column[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) column[j] = load(x + j * stride + k);
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++) {
      const Floats weight = load(w[i] + k);
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) sum[i][j] += weight * column[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TILE; i++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) out[i][j] = total(sum[i][j]);
  for (; k < n; k++)
    for (int i = 0; i < TILE; i++)
      for (int j = 0; j < N; j++) out[i][j] += w[i][k] * x[j * stride + k];
}

// dot_tile of N rows, or fewer.
template <int N>
void dot_tiles(int64_t rows, const float *const *w, const float *x, int64_t stride, int64_t n,
               float (*out)[TOKENS], Ahead ahead) {
  if (rows == N) return dot_tile<N>(w, x, stride, n, out, ahead);
  if constexpr (N > 1) dot_tiles<N - 1>(rows, w, x, stride, n, out, ahead);
}

// out[j] = sum over t of share[j][t] values[t], of N rows of shares and count values of D numbers.
template <int N>
void mix(const float *share, int64_t stride, const float *values, int64_t count, int64_t D, float *out) {
  int64_t k = 0;
  for (; k + WIDE * LANES <= D; k += WIDE * LANES) {
    Floats sum[N][WIDE];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++)
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; c++) sum[j][c] = Floats{};
    for (int64_t t = 0; t < count; t++) {
      Floats value[WIDE];
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; c++) value[c] = load(values + t * D + k + c * LANES);
#pragma GCC unroll 8
      for (int j = 0; j < N; j++)
#pragma GCC unroll 4
        for (int c = 0; c < WIDE; c++) sum[j][c] += share[j * stride + t] * value[c];
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; j++)
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; c++) store(out + j * D + k + c * LANES, sum[j][c]);
  }
  for (int j = 0; j < N; j++) {
    std::memset(out + j * D + k, 0, (D - k) * sizeof(float));
    for (int64_t t = 0; t < count; t++)
      add_scaled(out + j * D + k, values + t * D + k, share[j * stride + t], D - k);
  }
}

// mix of N rows, or fewer.
template <int N>
void mixes(int64_t rows, const float *share, int64_t stride, const float *values, int64_t count, int64_t D,
           float *out) {
  if (rows == N) return mix<N>(share, stride, values, count, D, out);
  if constexpr (N > 1) mixes<N - 1>(rows, share, stride, values, count, D, out);
}

// The next of the fewest equal parts of `left` items that have at most `most`.
inline int64_t even_part(int64_t left, int64_t most) {
  const int64_t parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

// --- threads -------------------------------------------------------------------------------------------------

// How long a thread waits awake. Phases are a few microseconds apart; beside other busy processes the thread
// that is waited for may need this one's core. A processor's pause takes 20 to 50 ns, so the clock tells.
constexpr std::chrono::microseconds AWAKE{40};
constexpr int SPINS = 32;  // between two looks at the clock

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Have Linux give this thread its share of a core in short turns, if it can (6.12 and later). Whoever waits for
// other threads a few hundred times a token then has its core back as soon as they are through, also beside busy
// processes; the share stays as it was. https://docs.kernel.org/scheduler/sched-eevdf.html
void ask_for_short_turns() {
#if defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
  constexpr uint64_t SHORTEST = 100000;  // nanoseconds that the system allows
  struct {  // sched_attr of sched_setattr(2), in its first version
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t turn, deadline, period;
  } own{};
  if (syscall(SYS_sched_getattr, 0, &own, sizeof own, 0) != 0) return;
  if (own.policy != 0 || own.turn <= SHORTEST) return;  // a policy of the user's, or a system that says nothing
  own.turn = SHORTEST;
  syscall(SYS_sched_setattr, 0, &own, 0);
#endif
}

struct Scratch {  // a thread's own
  Numbers hidden, input, weight, sums, turned, scales, scores, shares, coded;
};

class Team {
 public:
  explicit Team(int size) : scratch(size), size_(size) {}

  // The threads live as long as the process, and so must the team.
  void start() {
    for (int index = 1; index < size_; index++) std::thread([this, index] { serve(index); }).detach();
  }

  // Run work(index) on every thread; returns when all are through.
  template <typename Work>
  void run(Work &work) {
    work_ = [](void *given, int index) { (*static_cast<Work *>(given))(index); };
    given_ = &work;
    started_.fetch_add(1);
    started_.notify_all();
    work(0);
    barrier();
  }

  // Wait for all threads. The next phase's parts are counted from 0 again.
  void barrier() {
    uint32_t phase = phase_.load();
    if (arrived_.fetch_add(1) + 1 == size_) {
      arrived_.store(0);
      part_.store(0);
      phase_.store(phase + 1);
      phase_.notify_all();
      return;
    }
    wait_while(phase_, phase);
  }

  // The next part of the phase's work; each is given out once.
  int64_t next() { return part_.fetch_add(1); }

  int size() const { return size_; }

  std::vector<Scratch> scratch;

 private:
  static void wait_while(std::atomic<uint32_t> &value, uint32_t old) {
    const auto end = std::chrono::steady_clock::now() + AWAKE;
    do {
      for (int turn = 0; turn < SPINS; turn++) {
        if (value.load() != old) return;
        pause_briefly();
      }
    } while (std::chrono::steady_clock::now() < end);
    while (value.load() == old) value.wait(old);
  }

  void serve(int index) {
    ask_for_short_turns();
    for (uint32_t seen = 0;; seen++) {
      wait_while(started_, seen);
      work_(given_, index);
      barrier();
    }
  }

  const int size_;
  alignas(64) std::atomic<uint32_t> started_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int64_t> part_{0};
  void (*work_)(void *, int) = nullptr;
  void *given_ = nullptr;
};

// --- the step ------------------------------------------------------------------------------------------------

struct Shared {  // what the threads pass to each other, [M, width]
  // wide: what qkv and gate_up give; back: what o and down give. Two, so that one can be written while threads
  // still read the other.
  Numbers wide, back, heads, mixed, inner;
  std::vector<double> energy;  // [threads, L, M]
  std::vector<int> exponent;   // [M]
};

class Decoder {
 public:
  Decoder(const Model &model, const Step &step, Team &team, Shared &shared)
      : model_(model), step_(step), team_(team), shared_(shared), rows_(step.rows) {}

  void operator()(int index) {
    Scratch &own = team_.scratch[index];
    const int64_t d = model_.hidden;
    for (int64_t row = 0; row < rows_; row++) {
      const float *from = model_.embedding + step_.tokens[row] * d;
      for (int64_t k = 0; k < d; k++) own.hidden[row * d + k] = from[k] * model_.embedding_scale;
    }
    for (int64_t at = 0; at < model_.layers; at++) {
      layer(at, model_.layer[at], index, own);
      if (step_.hidden && index == 0)
        std::memcpy(step_.hidden + at * rows_ * d, own.hidden.data(), rows_ * d * sizeof(float));
    }
    // Threads that are through with these take more parts of the head.
    for (int64_t row = index; row < rows_; row += team_.size()) added(row, own);
    if (step_.outs == 0) return;
    for (int64_t out = 0; out < step_.outs; out++)
      rms_norm(&own.input[out * d], &own.hidden[step_.last[out] * d], model_.norm, model_.eps, d);
    const Input input{own.input.data(), step_.outs};
    spread(model_.head.rows, LINE, [&](int64_t begin, int64_t end) {
      rows_of(model_.head, input, step_.logits, model_.head.rows, begin, end, own);
    }, [&] { arrange(model_.head, input, own); });
  }

 private:
  struct Input {  // of a product: [rows, columns of its weight]
    const float *x;
    int64_t rows;
  };

  // Parts of `count` items, in multiples of `unit`, to whoever is free; before: done once by each thread.
  template <typename Work, typename Before>
  void spread(int64_t count, int64_t unit, Work work, Before before) {
    before();
    int64_t parts = 6 * team_.size();
    int64_t size = (count + parts - 1) / parts;
    size = (size + unit - 1) / unit * unit;
    for (int64_t begin; (begin = team_.next() * size) < count;) work(begin, std::min(begin + size, count));
    team_.barrier();
  }

  template <typename Work>
  void spread(int64_t count, int64_t unit, Work work) {
    spread(count, unit, work, [] {});
  }

  void layer(int64_t at, const Layer &layer, int index, Scratch &own) {
    const int64_t inner = model_.inner;
    double *energy = &shared_.energy[(index * model_.layers + at) * rows_];
    std::fill(energy, energy + rows_, 0.0);

    normed(own, layer.attention_norm);
    product(layer, layer.qkv, own.input.data(), shared_.wide.data(), own);
    const int64_t heads = model_.heads + 2 * model_.kv_heads;
    spread(rows_ * heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; part++) head(at, layer, part / heads, part % heads, energy);
    });
    // Query heads that share keys and values read them together, unless threads would have nothing to do.
    const int64_t sharing = model_.heads / model_.kv_heads;
    const int64_t most = rows_ * model_.kv_heads < 4 * team_.size() ? 1 : TOKENS;
    const int64_t together = even_part(sharing, most), parts = (sharing + together - 1) / together;
    spread(rows_ * model_.kv_heads * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; part++) {
        const int64_t kv = part / parts % model_.kv_heads, first = part % parts * together;
        attend(at, layer, part / parts / model_.kv_heads, kv, kv * sharing + first,
               std::min(together, sharing - first), own);
      }
    });
    product(layer, layer.o, shared_.mixed.data(), shared_.back.data(), own);
    residual(layer, layer.o, layer.post_attention, index, energy, own);

    normed(own, layer.mlp_norm);
    product(layer, layer.gate_up, own.input.data(), shared_.wide.data(), own);
    spread(rows_ * inner, LINE, [&](int64_t begin, int64_t end) {
      pieces(begin, end, inner, [&](int64_t row, int64_t left, int64_t right) {
        add_lora(layer, layer.gate_up, shared_.wide.data(), row, left, right, energy);
        add_lora(layer, layer.gate_up, shared_.wide.data(), row, inner + left, inner + right, energy);
        activate(row, left, right);
      });
    });
    product(layer, layer.down, shared_.inner.data(), shared_.back.data(), own);
    residual(layer, layer.down, layer.post_mlp, index, energy, own);
  }

  // input = norm(hidden)
  void normed(Scratch &own, const float *weight) {
    const int64_t d = model_.hidden;
    for (int64_t row = 0; row < rows_; row++)
      rms_norm(&own.input[row * d], &own.hidden[row * d], weight, model_.eps, d);
  }

  // hidden += norm(back + z B^T). Every thread adds for itself: the states are small, and a barrier takes as
  // long. So does a single row's z B^T.
  void residual(const Layer &layer, const Linear &linear, const float *norm, int index, double *energy,
                Scratch &own) {
    const int64_t d = model_.hidden;
    const bool alone = rows_ == 1 && linear.sites;
    if (alone) {
      double counted_already = 0.0;
      std::memcpy(own.input.data(), shared_.back.data(), d * sizeof(float));
      add_lora(layer, linear, own.input.data(), 0, 0, d, index == 0 ? energy : &counted_already);
    } else {
      combined(layer, linear, energy);
    }
    for (int64_t row = 0; row < rows_; row++) {
      const float *out = alone ? own.input.data() : &shared_.back[row * d];
      if (norm) {
        rms_norm(&own.input[row * d], out, norm, model_.eps, d);
        out = &own.input[row * d];
      }
      add_scaled(&own.hidden[row * d], out, 1.0f, d);
    }
  }

  // out = W0 x of the group, and z = (x A^T) * scale
  void product(const Layer &layer, const Linear &linear, const float *x, float *out, Scratch &own) {
    const Input input{x, rows_};
    const int64_t features = linear.weight.rows;
    const int64_t whole = (features + LINE - 1) / LINE * LINE;
    spread(whole + linear.rank, LINE, [&](int64_t begin, int64_t end) {
      if (begin < features)
        rows_of(linear.weight, input, out, features, begin, std::min(end, features), own);
      if (end > whole) coefficients(layer, linear, input, std::max(begin, whole) - whole, end - whole, own);
    }, [&] {
      arrange(linear.weight, input, own);
      if (linear.rank) arrange(linear.A, input, own);
    });
    if (step_.router && linear.sites)
      spread(rows_ * linear.sites, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; part++)
          share_out(layer, linear, part / linear.sites, linear.site[part % linear.sites], own);
      });
  }

  void coefficients(const Layer &layer, const Linear &linear, Input input, int64_t begin, int64_t end,
                    Scratch &own) {
    const int64_t origin = layer.origin + linear.start;
    rows_of(linear.A, input, step_.coded + origin, step_.ranks, begin, end, own);
    if (step_.router) return;  // which reads them as they are
    for (int64_t row = 0; row < rows_; row++)
      for (int64_t column = begin; column < end; column++)
        step_.coded[row * step_.ranks + origin + column] *= step_.scales[row * step_.ranks + origin + column];
  }

  // z *= scale * the factor that a row's token gives each adapter of a site.
  void share_out(const Layer &layer, const Linear &linear, int64_t row, const SiteSlice &site, Scratch &own) {
    const Router &router = *step_.router;
    const int64_t first = layer.origin + linear.start + site.top;
    float *z = step_.coded + row * step_.ranks + first, *factor = own.shares.data();
    factors(router, row, site, first, z, factor);
    const float *scale = step_.scales + row * step_.ranks + first;
    for (const AdapterSlice *part = site.part; part < site.part + site.parts; part++)
      for (int64_t r = 0; r < part->rank; r++) *z++ *= *scale++ * factor[part->adapter];
  }

  // An adapter's factor at a site, [N]; 1 for those that take no part.
  static void factors(const Router &router, int64_t row, const SiteSlice &site, int64_t first,
                      const float *z, float *factor) {
    const int64_t count = router.adapters;
    const uint8_t *part = router.part + (row * router.sites + site.place) * count;
    std::fill(factor, factor + count, 0.0f);
    for (const AdapterSlice *each = site.part; each < site.part + site.parts; each++) {
      float &score = factor[each->adapter];
      if (router.by_norm[row])  // |s B z|
        score = std::sqrt(std::max(square(each->gram, z, each->rank), 0.0f)) * std::abs(router.scaling[first]);
      else
        score = std::abs(dot(router.prototype + first, z, each->rank));
      z += each->rank, first += each->rank;
    }
    // Those beyond the first `top`, equal ones in their order, take part without a share.
    float highest = -INFINITY, whole = 0.0f;
    float *share = factor + count;
    for (int64_t i = 0; i < count; i++) {
      int64_t before = 0;
      if (part[i] && router.top[row] < count)
        for (int64_t j = 0; j < count; j++)
          before += part[j] && (factor[j] > factor[i] || (factor[j] == factor[i] && j < i));
      share[i] = part[i] && before < router.top[row] ? factor[i] : -INFINITY;
      highest = std::max(highest, share[i]);
    }
    for (int64_t i = 0; i < count; i++) whole += share[i] = std::exp(share[i] - highest);
    const float keep = router.keep[row], swing = router.swing[row * router.sites + site.place];
    for (int64_t i = 0; i < count; i++) factor[i] = part[i] ? keep + swing * (share[i] / whole) : 1.0f;
  }

  // What the adapters added to each layer in a row, squared and over 4^exponent: squares of large numbers
  // overflow.
  void added(int64_t row, Scratch &own) {
    const int64_t ranks = step_.ranks;
    const float *coded = step_.coded + row * ranks;
    int exponent = 0;
    std::frexp(largest(coded, ranks), &exponent);
    shared_.exponent[row] = exponent = std::clamp(exponent, -126, 126);
    const float scale = std::ldexp(1.0f, -exponent);
    for (int64_t k = 0; k < ranks; k++) own.coded[k] = coded[k] * scale;
    float *sums = step_.contribution + row * model_.layers * step_.adapters;
    std::fill(sums, sums + model_.layers * step_.adapters, 0.0f);
    for (int64_t at = 0; at < model_.layers; at++, sums += step_.adapters) {
      const Layer &layer = model_.layer[at];
      for (const Linear *linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down})
        for (int64_t s = 0; s < linear->sites; s++) {
          const SiteSlice &site = linear->site[s];
          const float *z = &own.coded[layer.origin + linear->start + site.top];
          for (const AdapterSlice *part = site.part; part < site.part + site.parts; z += part++->rank)
            sums[part->adapter] += square(part->gram, z, part->rank);
        }
    }
  }

  // Output features [begin, end) of W x for all rows; out is [rows, width].
  void rows_of(const Matrix &w, Input input, float *out, int64_t width, int64_t begin, int64_t end,
               Scratch &own) {
    const int64_t n = w.columns;
    if (input.rows == 1) {
      const Arranged at{input.x, own.sums.data(), own.turned.data()};
      int64_t row = begin;
      float *room = own.scales.data();
      for (; row + TOGETHER <= end; row += TOGETHER) dot_rows<TOGETHER>(w, row, at, room, out + row);
      for (; row < end; row++) dot_rows<1>(w, row, at, room, out + row);
      for (row = begin; w.bias && row < end; row++) out[row] += w.bias[row];
      return;
    }
    for (int64_t first = begin; first < end; first += TILE) {
      const float *weight[TILE];
      const int64_t count = std::min<int64_t>(TILE, end - first);
      for (int64_t i = 0; i < TILE; i++)
        weight[i] = i < count ? plain_row(w, first + i, &own.weight[i * (n + LINE)]) : weight[0];
      // The next TILE rows of W come while these are multiplied.
      const int64_t bytes = TILE * row_bytes(w), turns = (input.rows + TOKENS - 1) / TOKENS;
      const char *next = static_cast<const char *>(w.data) + first * row_bytes(w) + bytes;
      const int64_t step = bytes / (turns * std::max<int64_t>(1, n / LANES));
      for (int64_t row = 0, here; row < input.rows; row += here, next += bytes / turns) {
        float sums[TILE][TOKENS];
        here = even_part(input.rows - row, TOKENS);
        dot_tiles<TOKENS>(here, weight, input.x + row * n, n, n, sums, {next, step});
        for (int64_t i = 0; i < count; i++)
          for (int64_t j = 0; j < here; j++)
            out[(row + j) * width + first + i] = sums[i][j] + (w.bias ? w.bias[first + i] : 0.0f);
      }
    }
  }

  // Fill what dot_rows needs of x beside it.
  void arrange(const Matrix &w, Input input, Scratch &own) {
    if (input.rows > 1) return;
    const float *x = input.x;
    if (w.storage == U4) {
      store(&own.sums[w.columns / GROUP], Floats{});
      for (int64_t g = 0; g < w.columns / GROUP; g++) {
        Floats sum = {};
        for (int j = 0; j < GROUP; j += LANES) sum += load(x + g * GROUP + j);
        own.sums[g] = total(sum);
      }
    }
    if (w.storage == NF4)
      for (int64_t k = 0; k < w.columns; k += 2 * LANES)
        for (int j = 0; j < LANES; j++) {
          own.turned[k + j] = x[k + 2 * j];
          own.turned[k + LANES + j] = x[k + 2 * j + 1];
        }
  }

  // Columns [left, right) of a row of out [M, features] += z B^T; before, their squares go to the energy.
  void add_lora(const Layer &layer, const Linear &linear, float *out, int64_t row, int64_t left,
                int64_t right, double *energy) {
    out += row * linear.weight.rows;
    const float *z = step_.coded + row * step_.ranks + layer.origin + linear.start;
    for (int64_t s = 0; s < linear.sites; s++) {
      const SiteSlice &site = linear.site[s];
      const int64_t from = std::max(left, site.left), to = std::min(right, site.right);
      if (from >= to) continue;
      const int64_t width = site.right - site.left, ranks = site.bottom - site.top, column = from - site.left;
      auto add = [&](const auto *B) {
        return add_product(out + from, B + column, width, ranks, z + site.top, to - from);
      };
      energy[row] += site.B.storage == F32 ? add(row_of<float>(site.B, 0)) : add(row_of<uint16_t>(site.B, 0));
    }
  }

  void combined(const Layer &layer, const Linear &linear, double *energy) {
    const int64_t width = linear.weight.rows;
    if (!linear.sites) return;
    spread(rows_ * width, LINE, [&](int64_t begin, int64_t end) {
      pieces(begin, end, width, [&](int64_t row, int64_t left, int64_t right) {
        add_lora(layer, linear, shared_.back.data(), row, left, right, energy);
      });
    });
  }

  // Items [begin, end) of [M, width], row by row.
  template <typename Work>
  void pieces(int64_t begin, int64_t end, int64_t width, Work work) {
    for (int64_t row = begin / width; row * width < end; row++)
      work(row, std::max<int64_t>(begin - row * width, 0), std::min(end - row * width, width));
  }

  // Where a row's keys of a head begin in a layer's cache; values come kv_heads after them.
  float *slot(int64_t at, int64_t row, int64_t kv) const {
    return step_.cache[at] + (step_.slots[row] * 2 * model_.kv_heads + kv) * step_.length * model_.width;
  }

  // A head's adapters, norm and rotation; keys and values go to the cache.
  void head(int64_t at, const Layer &layer, int64_t row, int64_t head, double *energy) {
    const int64_t D = model_.width, left = head * D, position = step_.positions[row];
    add_lora(layer, layer.qkv, shared_.wide.data(), row, left, left + D, energy);
    float *x = &shared_.wide[row * layer.qkv.weight.rows + left];
    float *target = &shared_.heads[(row * model_.heads + head) * D];
    const int64_t kv = head - model_.heads;
    if (kv >= 0)
      target = slot(at, row, kv) + position * D;
    if (kv >= model_.kv_heads) {
      std::memcpy(target, x, D * sizeof(float));
      return;
    }
    if (const float *norm = kv < 0 ? layer.q_norm : layer.k_norm) rms_norm(x, x, norm, model_.eps, D);
    const float *cosine = step_.rope[layer.rope] + position * D;
    const float *sine = cosine + step_.rope_length * D;
    const int64_t half = D / 2;
    for (int64_t k = 0; k < half; k++) {
      target[k] = x[k] * cosine[k] + x[k + half] * sine[k];
      target[k + half] = x[k + half] * cosine[k + half] + x[k] * sine[k + half];
    }
  }

  // The query heads [head, head + together) of a row, whose keys and values are those of kv.
  void attend(int64_t at, const Layer &layer, int64_t row, int64_t kv, int64_t head, int64_t together,
              Scratch &own) {
    const int64_t D = model_.width, last = step_.positions[row];
    const int64_t first = layer.window ? std::max<int64_t>(0, last + 1 - layer.window) : 0;
    const int64_t count = last + 1 - first, padded = (count + LANES - 1) / LANES * LANES;
    const float *query = &shared_.heads[(row * model_.heads + head) * D];
    const float *keys = slot(at, row, kv) + first * D;
    const float *values = keys + model_.kv_heads * step_.length * D;
    float *mixed = &shared_.mixed[(row * model_.heads + head) * D], *scores = own.scores.data();
    for (int64_t t = 0; t < count; t += TILE) {
      const float *key[TILE];
      float sums[TILE][TOKENS];
      for (int64_t i = 0; i < TILE; i++) key[i] = keys + std::min(t + i, count - 1) * D;
      const Ahead ahead{reinterpret_cast<const char *>(keys + (t + TILE) * D), TILE * LANES * sizeof(float)};
      dot_tiles<TOKENS>(together, key, query, D, D, sums, ahead);
      for (int64_t j = 0; j < together; j++)
        for (int64_t i = 0; i < std::min<int64_t>(TILE, count - t); i++)
          scores[j * padded + t + i] = sums[i][j] * model_.scaling;
    }
    for (int64_t j = 0; j < together; j++) softmax(scores + j * padded, count, padded);
    mixes<TOKENS>(together, scores, padded, values, count, D, mixed);
  }

  static void softmax(float *scores, int64_t count, int64_t padded) {
    const float highest = *std::max_element(scores, scores + count);
    std::fill(scores + count, scores + padded, -INFINITY);
    Floats sum = {};
    for (int64_t t = 0; t < padded; t += LANES) {
      const Floats share = exponential(load(scores + t) - highest);
      store(scores + t, share);
      if (t + LANES <= count) sum += share;
    }
    float whole = total(sum);
    for (int64_t t = count / LANES * LANES; t < count; t++) whole += scores[t];
    const float scale = 1.0f / whole;
    for (int64_t t = 0; t < padded; t += LANES) store(scores + t, load(scores + t) * scale);
  }

  // inner = activation(gate) * up
  void activate(int64_t row, int64_t left, int64_t right) {
    const int64_t inner = model_.inner;
    const float *gate = &shared_.wide[row * 2 * inner], *up = gate + inner;
    float *out = &shared_.inner[row * inner];
    int64_t k = left;
    for (; k + LANES <= right; k += LANES) {
      Floats x = load(gate + k);
      store(out + k, (model_.gelu ? gelu(x) : silu(x)) * load(up + k));
    }
    for (; k < right; k++) {
      Floats x = all(gate[k]);
      out[k] = (model_.gelu ? gelu(x) : silu(x))[0] * up[k];
    }
  }

  const Model &model_;
  const Step &step_;
  Team &team_;
  Shared &shared_;
  const int64_t rows_;
};

// All memory of a step, before its threads begin: there a failure can still be told.
void reserve(Team &team, Shared &shared, const Model &model, const Step &step) {
  const int64_t rows = step.rows, d = model.hidden, mixed = model.heads * model.width;
  const int64_t wide = std::max(2 * model.inner, mixed + 2 * model.kv_heads * model.width);
  const int64_t longest = std::max({d, model.inner, mixed});
  shared.wide.resize(rows * wide);
  shared.back.resize(rows * d);
  shared.heads.resize(rows * mixed);
  shared.mixed.resize(rows * mixed);
  shared.inner.resize(rows * model.inner);
  shared.energy.resize(team.size() * model.layers * rows);
  shared.exponent.resize(rows);
  for (Scratch &own : team.scratch) {
    own.hidden.resize(rows * d);
    own.input.resize(rows * d);
    own.weight.resize(TILE * (longest + LINE));
    own.sums.resize(longest / GROUP + LANES);
    own.turned.resize(longest);
    own.scales.resize(2 * (TOGETHER * (longest / GROUP) + LANES));
    own.scores.resize(TOKENS * (step.length + LANES));
    own.shares.resize(step.router ? 2 * step.router->adapters : 0);
    own.coded.resize(step.ranks);
  }
}

// From what the adapters added to a layer of a row, squared and scaled, to their contributions.
void as_shares(const Step &step, int exponent, int64_t at) {
  constexpr float LEAST = std::numeric_limits<float>::min(), MOST = std::numeric_limits<float>::max();
  const float base = std::sqrt(std::clamp(step.energy[at], LEAST, MOST));
  for (int64_t i = 0; i < step.adapters; i++) {
    float &share = step.contribution[at * step.adapters + i];
    share = std::min(std::ldexp(std::sqrt(std::max(share, 0.0f)), exponent) / base, MOST);
  }
}

}  // namespace

extern "C" {

void *team_new(int size) {
  try {
    Team *team = new Team(size);
    team->start();
    return team;
  } catch (...) {  // the system gives no more threads; those that began sleep on, and need their team
    return nullptr;
  }
}

// Returns 0, or 1 where the memory was not enough. One call at a time for a team.
int decode(void *given, const Model *model, const Step *step) {
  try {
    Team &team = *static_cast<Team *>(given);
    static thread_local Shared shared;
    static thread_local const bool asked = (ask_for_short_turns(), true);
    reserve(team, shared, *model, *step);
    Decoder work(*model, *step, team, shared);
    team.run(work);
    for (int64_t row = 0; row < step->rows; row++)
      for (int64_t at = 0; at < model->layers; at++) {
        double sum = 0;
        for (int index = 0; index < team.size(); index++)
          sum += shared.energy[(index * model->layers + at) * step->rows + row];
        step->energy[row * model->layers + at] = static_cast<float>(sum);
        as_shares(*step, shared.exponent[row], row * model->layers + at);
      }
    return 0;
  } catch (...) {
    return 1;
  }
}

}  // extern "C"
