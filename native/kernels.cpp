// The arithmetic of convlstm's fused implementation in PyTorch on a CPU, in one pass where PyTorch needs several.
//
// Each operator reads and writes its arrays once, on PyTorch's own threads. The operators are called through PyTorch's
// dispatcher and use its stable interface only, so that one build works with PyTorch 2.10 and later. Equations and
// names: convlstm/engine/torch/gates.py and convlstm/engine/torch/winograd.py. The file is longer than 400 lines
// because all operators share the number types and the checks of arrays.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <vector>

// The loops are compiled for three generations of x86-64 processors, and the loader selects the best one. GCC has these
// names from version 12 on; other compilers build for the oldest generation.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#if defined(_MSC_VER)
#define INLINE __forceinline
#define INDEPENDENT __pragma(loop(ivdep))
#define UNROLLED
#elif defined(__clang__)
#define INLINE inline __attribute__((always_inline))
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define INLINE inline __attribute__((always_inline))
#define INDEPENDENT _Pragma("GCC ivdep")
#define UNROLLED _Pragma("GCC unroll 8")
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::parallel_for;

constexpr int64_t GRAIN = 16384;  // smallest number of values per thread
constexpr int64_t WINDOW = 4;     // output rows per window

// ---- numbers -------------------------------------------------------------------------------------------------

struct BFloat16 {  // bfloat16, the upper half of a float
  uint16_t bits;
};

INLINE float wide(float x) { return x; }

INLINE float wide(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE void put(float& to, float x) { to = x; }

INLINE void put(BFloat16& to, float x) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7FC0u : rounded);
}

INLINE void put(BFloat16& to, BFloat16 x) { to = x; }

// e^x within two units in the last place (Cephes' expf); x is clamped to -87 … 88
INLINE float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float finite = x > -87.0f ? x : -87.0f;  // NaN would make the conversion to an integer undefined
  const float n = std::rint(finite * 1.44269504f);
  float r = x - n * 0.693359375f;  // log 2 in two parts, the first exact
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// ---- arrays --------------------------------------------------------------------------------------------------

template <typename T>
T* data(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

bool is_bfloat16(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

void check_type(const Tensor& x, bool may_be_bfloat16) {
  STD_TORCH_CHECK(
      x.scalar_type() == ScalarType::Float || (may_be_bfloat16 && is_bfloat16(x)),
      "array of an unsupported type");
}

// Whether the axes from `first` on are contiguous, with stride `inner` along the last one
bool is_dense(const Tensor& x, int64_t first, int64_t inner) {
  for (int64_t axis = x.dim() - 1; axis >= first; --axis) {
    if (x.size(axis) != 1 && x.stride(axis) != inner) return false;
    inner *= x.size(axis);
  }
  return true;
}

bool is_channels_last(const Tensor& x) {
  const int64_t channels = x.size(1);
  return (channels == 1 || x.stride(1) == 1) && is_dense(x, 2, channels) &&
         (x.size(0) == 1 || x.stride(0) == x.numel() / x.size(0));
}

// ---- gates ---------------------------------------------------------------------------------------------------

// `size` cells of a row. Their gates i, f, g, o are `row` values apart, and so are the three peepholes. For the third
// gate, z stores sigmoid(2 z_g) in float32 and g in bfloat16, as the class TorchGates does.
template <typename T, bool has_peepholes>
INLINE void forward_cells(
    T* z, const float* before, float* after, T* h, const float* p, int64_t row, int64_t size) {
  constexpr bool keeps_sigmoid = sizeof(T) == sizeof(float);
  T *zi = z, *zf = z + row, *zg = z + 2 * row, *zo = z + 3 * row;
  INDEPENDENT
  for (int64_t n = 0; n < size; ++n) {
    float c = before[n], i = wide(zi[n]), f = wide(zf[n]), o = wide(zo[n]);
    if (has_peepholes) {
      i += p[n] * c;
      f += p[row + n] * c;
    }
    i = sigmoid(i);
    f = sigmoid(f);
    const float s = sigmoid(2.0f * wide(zg[n])), g = 2.0f * s - 1.0f;
    c = f * c + i * g;
    o = sigmoid(has_peepholes ? o + p[2 * row + n] * c : o);
    after[n] = c;
    put(zi[n], i);
    put(zf[n], f);
    put(zg[n], keeps_sigmoid ? s : g);
    put(zo[n], o);
    put(h[n], o * hyperbolic_tangent(c));
  }
}

template <typename T, bool has_peepholes>
INLINE void backward_cells(
    T* z, const float* before, const float* after, const T* dh, float* dc, const float* p, int64_t row, int64_t size) {
  constexpr bool keeps_sigmoid = sizeof(T) == sizeof(float);
  T *zi = z, *zf = z + row, *zg = z + 2 * row, *zo = z + 3 * row;
  INDEPENDENT
  for (int64_t n = 0; n < size; ++n) {
    const float i = wide(zi[n]), f = wide(zf[n]), o = wide(zo[n]), dh_n = wide(dh[n]);
    const float g = keeps_sigmoid ? 2.0f * wide(zg[n]) - 1.0f : wide(zg[n]);
    const float tanh_c = hyperbolic_tangent(after[n]);
    const float dz_o = dh_n * tanh_c * o * (1.0f - o);
    float dc_n = dc[n] + dh_n * o * (1.0f - tanh_c * tanh_c);
    if (has_peepholes) dc_n += p[2 * row + n] * dz_o;
    const float dz_i = dc_n * g * i * (1.0f - i), dz_f = dc_n * before[n] * f * (1.0f - f);
    dc[n] = has_peepholes ? dc_n * f + p[n] * dz_i + p[row + n] * dz_f : dc_n * f;
    put(zi[n], dz_i);
    put(zf[n], dz_f);
    put(zg[n], dc_n * i * (1.0f - g * g));
    put(zo[n], dz_o);
  }
}

struct Step {
  const Tensor &z, &before, &after, &h;
  float* dc;       // null in the forward pass
  const float* p;  // (3, row), or null
  int64_t row;     // contiguous cells: the channels of a point, or a sample if channels come first
};

// Compute the cells from `begin` to `end`, at most one row at a time
template <typename T, bool has_peepholes>
FOR_EACH_PROCESSOR void forward_range(const Step& step, int64_t begin, int64_t end) {
  T *z = data<T>(step.z), *h = data<T>(step.h);
  const float* before = data<float>(step.before);
  float* after = data<float>(step.after);
  for (int64_t n = begin, size; n < end; n += size) {
    const int64_t within = n % step.row;
    size = std::min(step.row - within, end - n);
    forward_cells<T, has_peepholes>(
        z + 4 * (n - within) + within, before + n, after + n, h + n, step.p + (has_peepholes ? within : 0),
        step.row, size);
  }
}

template <typename T, bool has_peepholes>
FOR_EACH_PROCESSOR void backward_range(const Step& step, int64_t begin, int64_t end) {
  T *z = data<T>(step.z), *h = data<T>(step.h);
  const float *before = data<float>(step.before), *after = data<float>(step.after);
  for (int64_t n = begin, size; n < end; n += size) {
    const int64_t within = n % step.row;
    size = std::min(step.row - within, end - n);
    backward_cells<T, has_peepholes>(
        z + 4 * (n - within) + within, before + n, after + n, h + n, step.dc + n, step.p + (has_peepholes ? within : 0),
        step.row, size);
  }
}

template <typename T>
void run_range(const Step& step, int64_t begin, int64_t end) {
  const auto run = step.dc ? (step.p ? backward_range<T, true> : backward_range<T, false>)
                           : (step.p ? forward_range<T, true> : forward_range<T, false>);
  run(step, begin, end);
}

// z and h have the same type, the other arrays float32
void run_step(
    const Tensor& z, const Tensor& before, const Tensor& after, const Tensor& h, const Tensor* dc,
    const std::optional<Tensor>& peepholes) {
  check_type(z, true);
  STD_TORCH_CHECK(z.scalar_type() == h.scalar_type(), "z and h must be of one type");
  STD_TORCH_CHECK(z.numel() == 4 * after.numel() && after.numel() > 0, "z must hold four gates for each cell");
  const bool last = z.dim() > 3;
  const int64_t row = last ? after.size(1) : after.numel() / after.size(0);
  for (const Tensor* x : {&z, &before, &after, &h, dc}) {
    if (!x) continue;
    STD_TORCH_CHECK(x == &z || x->numel() == after.numel(), "arrays of one step must have the same size");
    STD_TORCH_CHECK(
        last ? is_channels_last(*x) : is_dense(*x, 0, 1), "arrays of one step must have the same memory layout");
    if (x != &z && x != &h) check_type(*x, false);
  }
  if (peepholes) {
    check_type(*peepholes, false);
    STD_TORCH_CHECK(peepholes->numel() == 3 * row && is_dense(*peepholes, 0, 1), "peepholes must be (3, row)");
  }
  const Step step{z, before, after, h, dc ? data<float>(*dc) : nullptr,
                  peepholes ? data<float>(*peepholes) : nullptr, row};
  const bool is_low = is_bfloat16(z);
  parallel_for(0, after.numel(), GRAIN, [&](int64_t begin, int64_t end) {
    is_low ? run_range<BFloat16>(step, begin, end) : run_range<float>(step, begin, end);
  });
}

void advance(Tensor z, Tensor before, Tensor after, Tensor h, std::optional<Tensor> peepholes) {
  run_step(z, before, after, h, nullptr, peepholes);
}

void retreat(Tensor z, Tensor before, Tensor after, Tensor dh, Tensor dc, std::optional<Tensor> peepholes) {
  run_step(z, before, after, dh, &dc, peepholes);
}

// ---- Winograd's transforms -----------------------------------------------------------------------------------

struct Windows {
  int64_t samples, windows, columns, channels;       // channels of this input
  int64_t rows, edge;                                // rows of the grid, and of the padding around it
  int64_t sample_stride, row_stride, column_stride;  // strides of the grid
  int64_t point_stride, all;                         // stride from point to point, channels of all inputs

  // Row r of a window, or `outside` for a row outside the grid
  template <typename T>
  T* row(T* grid, T* outside, int64_t sample, int64_t window, int64_t column, int64_t r) const {
    const int64_t row = WINDOW * window + r - edge;
    return row < 0 || row >= rows ? outside : grid + sample * sample_stride + row * row_stride + column * column_stride;
  }

  int64_t offset(int64_t sample, int64_t window, int64_t column) const {
    return ((sample * windows + window) * columns + column) * all;
  }
};

// One element of a matrix product; `apart` is the stride between the matrix's factors
template <int size>
INLINE float product(const float* factors, int64_t apart, const float (&x)[size]) {
  float sum = factors[0] * x[0];
  UNROLLED
  for (int n = 1; n < size; ++n) sum += factors[n * apart] * x[n];
  return sum;
}

// points[p] = sum over r of matrix[p][r] * rows[r]
template <int n, int k>
FOR_EACH_PROCESSOR void to_points_of(
    float* points, float* grid, const float* matrix, float* zeros, const Windows& w, int64_t begin, int64_t end) {
  for (int64_t number = begin; number < end; ++number)
    for (int64_t column = 0; column < w.columns; ++column) {
      const int64_t sample = number / w.windows, window = number % w.windows;
      const float* in[k];
      for (int r = 0; r < k; ++r) in[r] = w.row(grid, zeros, sample, window, column, r);
      float* out = points + w.offset(sample, window, column);
      INDEPENDENT
      for (int64_t c = 0; c < w.channels; ++c) {
        float x[k];
        UNROLLED
        for (int r = 0; r < k; ++r) x[r] = in[r][c];
        UNROLLED
        for (int p = 0; p < n; ++p) out[p * w.point_stride + c] = product(matrix + p * k, 1, x);
      }
    }
}

// rows[r] += sum over p of matrix[p][r] * points[p]
template <int n, int k>
FOR_EACH_PROCESSOR void from_points_of(
    float* points, float* grid, const float* matrix, float* spare, const Windows& w, int64_t begin, int64_t end) {
  for (int64_t number = begin; number < end; ++number)
    for (int64_t window = 0; window < w.windows; ++window) {
      const int64_t sample = number / w.columns, column = number % w.columns;
      float* out[k];
      for (int r = 0; r < k; ++r) out[r] = w.row(grid, spare, sample, window, column, r);
      const float* in = points + w.offset(sample, window, column);
      INDEPENDENT
      for (int64_t c = 0; c < w.channels; ++c) {
        float x[n];
        UNROLLED
        for (int p = 0; p < n; ++p) x[p] = in[p * w.point_stride + c];
        UNROLLED
        for (int r = 0; r < k; ++r) out[r][c] += product(matrix + r, k, x);
      }
    }
}

// points (n, samples, windows, columns, all); grid (samples, channels, rows, columns), channels contiguous
Windows windows_of(const Tensor& points, const Tensor& grid, const Tensor& matrix, int64_t edge, int64_t offset) {
  for (const Tensor* x : {&points, &grid, &matrix}) check_type(*x, false);
  STD_TORCH_CHECK(
      points.dim() == 5 && grid.dim() == 4 && matrix.dim() == 2, "points, grid and matrix must have 5, 4 and 2 axes");
  STD_TORCH_CHECK(is_dense(points, 0, 1) && is_dense(matrix, 0, 1), "points and matrix must be contiguous");
  STD_TORCH_CHECK(grid.size(1) == 1 || grid.stride(1) == 1, "channels must be contiguous");
  const int64_t n = matrix.size(0), k = matrix.size(1);
  STD_TORCH_CHECK((n == 6 || n == 8) && (k == WINDOW || k == n), "unsupported size of the matrix");
  STD_TORCH_CHECK(
      points.size(0) == n && points.size(1) == grid.size(0) && WINDOW * points.size(2) == grid.size(2) &&
          points.size(3) == grid.size(3) && offset >= 0 && offset <= points.size(4) - grid.size(1),
      "the sizes of points and grid must agree");
  STD_TORCH_CHECK(edge >= 0 && edge <= n, "edge must be between 0 and the rows of a window");
  return {points.size(1), points.size(2),  points.size(3), grid.size(1),    grid.size(2),  edge,
          grid.stride(0), grid.stride(2), grid.stride(3), points.stride(0), points.size(4)};
}

void to_points(Tensor points, Tensor grid, Tensor matrix, int64_t edge, int64_t offset) {
  const Windows w = windows_of(points, grid, matrix, edge, offset);
  const bool square = matrix.size(1) != WINDOW;
  const auto run = matrix.size(0) == 6 ? (square ? to_points_of<6, 6> : to_points_of<6, 4>)
                                       : (square ? to_points_of<8, 8> : to_points_of<8, 4>);
  std::vector<float> zeros(w.channels);
  parallel_for(0, w.samples * w.windows, 1, [&](int64_t begin, int64_t end) {
    run(data<float>(points) + offset, data<float>(grid), data<float>(matrix), zeros.data(), w, begin, end);
  });
}

void from_points(Tensor grid, Tensor points, Tensor matrix, int64_t edge, int64_t offset) {
  const Windows w = windows_of(points, grid, matrix, edge, offset);
  const bool square = matrix.size(1) != WINDOW;
  const auto run = matrix.size(0) == 6 ? (square ? from_points_of<6, 6> : from_points_of<6, 4>)
                                       : (square ? from_points_of<8, 8> : from_points_of<8, 4>);
  parallel_for(0, w.samples * w.columns, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> spare(w.channels);
    run(data<float>(points) + offset, data<float>(grid), data<float>(matrix), spare.data(), w, begin, end);
  });
}

// ---- memory layout -------------------------------------------------------------------------------------------

constexpr int64_t TILE = 16;

// From (samples, channels, grid_points) to (samples, grid_points, channels), in tiles that fit into the cache
template <typename To, typename From>
void put_tiles(To* to, const From* from, int64_t channels, int64_t grid_points, int64_t channel_stride) {
  for (int64_t c = 0; c < channels; c += TILE) {
    const int64_t more = std::min(TILE, channels - c);
    for (int64_t point = 0; point < grid_points; ++point)
      for (int64_t m = 0; m < more; ++m) put(to[point * channels + c + m], from[(c + m) * channel_stride + point]);
  }
}

void put_channels_last(Tensor to, Tensor from) {
  check_type(to, true);
  check_type(from, is_bfloat16(to));
  STD_TORCH_CHECK(to.dim() == from.dim() && to.dim() > 2 && to.numel() > 0, "arrays must have the same axes");
  for (int64_t axis = 0; axis < to.dim(); ++axis)
    STD_TORCH_CHECK(to.size(axis) == from.size(axis), "arrays must be of the same size");
  STD_TORCH_CHECK(is_channels_last(to) && is_dense(from, 2, 1), "expected channels last and channels first");
  const int64_t channels = to.size(1), grid_points = to.numel() / (to.size(0) * channels);
  const int64_t parts = (grid_points + TILE - 1) / TILE, grain = std::max<int64_t>(1, GRAIN / (TILE * channels));
  const auto put_all = [&](auto* target, const auto* source) {
    parallel_for(0, to.size(0) * parts, grain, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t sample = part / parts, first = part % parts * TILE;
        put_tiles(
            target + (sample * grid_points + first) * channels, source + sample * from.stride(0) + first, channels,
            std::min(TILE, grid_points - first), from.stride(1));
      }
    });
  };
  if (!is_bfloat16(to)) put_all(data<float>(to), data<const float>(from));
  else if (!is_bfloat16(from)) put_all(data<BFloat16>(to), data<const float>(from));
  else put_all(data<BFloat16>(to), data<const BFloat16>(from));
}

}  // namespace

STABLE_TORCH_LIBRARY(convlstm_native, m) {
  m.def("advance(Tensor(a!) z, Tensor before, Tensor(b!) after, Tensor(c!) h, Tensor? peepholes) -> ()");
  m.def("retreat(Tensor(a!) z, Tensor before, Tensor after, Tensor dh, Tensor(b!) dc, Tensor? peepholes) -> ()");
  m.def("to_points(Tensor(a!) points, Tensor grid, Tensor matrix, int edge, int offset) -> ()");
  m.def("from_points(Tensor(a!) grid, Tensor points, Tensor matrix, int edge, int offset) -> ()");
  m.def("put_channels_last(Tensor(a!) to, Tensor x) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(convlstm_native, CPU, m) {
  m.impl("advance", TORCH_BOX(&advance));
  m.impl("retreat", TORCH_BOX(&retreat));
  m.impl("to_points", TORCH_BOX(&to_points));
  m.impl("from_points", TORCH_BOX(&from_points));
  m.impl("put_channels_last", TORCH_BOX(&put_channels_last));
}
