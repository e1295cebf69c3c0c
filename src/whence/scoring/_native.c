/* The Python face of the kernels: checks every shape and size, chooses an instruction set, releases the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_native.h"

#include <stdlib.h>
#include <string.h>

#ifdef WHENCE_X86
#include <cpuid.h>
#endif

void *aligned_scratch(size_t bytes, void **owner)
{
    *owner = malloc(bytes + 64);
    return *owner ? (void *)(((uintptr_t)*owner + 63) & ~(uintptr_t)63) : NULL;
}

ptrdiff_t tile_of(ptrdiff_t budget, ptrdiff_t queries, ptrdiff_t least)
{
    ptrdiff_t tile = least;
    while (2 * tile * queries <= budget) tile *= 2;
    return tile;
}

/* Kernels read whole vectors and whole 64-bit groups of a block. */
#define LEAST_BLOCK 64

#ifdef WHENCE_X86
static int has_avx2(void)
{
    unsigned a, b, c, d;
    const int half_floats = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
    return half_floats && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static int always(void) { return 1; }

static const struct {
    const char *name;
    int (*runs_here)(void);
    Kernel kernel;
} KERNELS[] = {
#ifdef WHENCE_X86
    {"avx512", has_avx512, score_avx512},
    {"avx2", has_avx2, score_avx2},
#endif
    {"portable", always, score_portable},
};
#define KERNEL_COUNT ((int)(sizeof KERNELS / sizeof KERNELS[0]))

static Kernel find_kernel(const char *name)
{
    for (int i = 0; i < KERNEL_COUNT; i++)
        if (!strcmp(name, KERNELS[i].name) && KERNELS[i].runs_here()) return KERNELS[i].kernel;
    PyErr_Format(PyExc_ValueError, "no kernel %s on this processor", name);
    return NULL;
}

static PyObject *kernels(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < KERNEL_COUNT; i++) {
        if (!KERNELS[i].runs_here()) continue;
        PyObject *name = PyUnicode_FromString(KERNELS[i].name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

/* A matrix of `size`-byte elements whose rows are contiguous; anything else is refused. */
static int matrix(PyObject *object, const char *name, const char *formats, Py_ssize_t size, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT | flags) < 0) return -1;
    const char *format = view->format ? view->format : "B";
    if (*format && strchr("@=^", *format)) format++; /* native byte order, possibly unaligned */
    if (view->ndim == 2 && view->itemsize == size && strlen(format) == 1 && strchr(formats, *format) &&
        (view->shape[1] <= 1 || view->strides[1] == size))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be a matrix of format %s with contiguous rows", name, formats);
    PyBuffer_Release(view);
    return -1;
}

static int sizes_agree(const Py_buffer *out, const Py_buffer *codes, const Py_buffer *scales, const Py_buffer *queries,
                       Py_ssize_t block, int bits)
{
    const Py_ssize_t coords = queries->shape[1];
    if (block < LEAST_BLOCK || (block & (block - 1)) || coords % block) return 0;
    const Py_ssize_t width = bits == 1 ? coords / 8 : coords;
    return codes->shape[1] == width && scales->shape[1] == coords / block && scales->shape[0] == codes->shape[0] &&
           out->shape[0] == queries->shape[0] && out->shape[1] == codes->shape[0];
}

static void write_sums(const Job *job, const Py_buffer *out)
{
    for (ptrdiff_t q = 0; q < job->count; q++) {
        float *to = (float *)(void *)((char *)out->buf + q * out->strides[0]);
        for (ptrdiff_t r = 0; r < job->rows; r++) to[r] = (float)job->sums[q * job->padded + r];
    }
}

static int run_job(Kernel kernel, Job *job, const Py_buffer *out)
{
    int failed;
    job->padded = (job->rows + ROW_PADDING - 1) / ROW_PADDING * ROW_PADDING;
    Py_BEGIN_ALLOW_THREADS
    job->sums = calloc((size_t)job->count * (size_t)job->padded + 1, sizeof(double));
    failed = !job->sums || (job->rows && job->count && job->coords && kernel(job));
    if (!failed) write_sums(job, out);
    free(job->sums);
    Py_END_ALLOW_THREADS
    return failed;
}

/* With all four buffers held. */
static PyObject *score_views(Kernel kernel, const Py_buffer *out, const Py_buffer *codes, const Py_buffer *scales,
                             const Py_buffer *queries, Py_ssize_t block, int bits)
{
    if (!sizes_agree(out, codes, scales, queries, block, bits)) {
        PyErr_SetString(PyExc_ValueError, "the shapes of out, codes, scales and queries do not agree");
        return NULL;
    }
    Job job = {.rows = codes->shape[0],
               .coords = queries->shape[1],
               .count = queries->shape[0],
               .block = block,
               .codes = codes->buf,
               .code_stride = codes->strides[0],
               .scales = scales->buf,
               .scale_stride = scales->strides[0],
               .queries = queries->buf,
               .query_stride = queries->strides[0],
               .bits = bits};
    if (run_job(kernel, &job, out)) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *score(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *objects[4], *result = NULL;
    Py_buffer out, codes, scales, queries;
    Py_ssize_t block;
    int bits;
    const char *name;
    if (!PyArg_ParseTuple(args, "OOOOnis", &objects[0], &objects[1], &objects[2], &objects[3], &block, &bits, &name))
        return NULL;
    if (bits != 1 && bits != 8 && bits != 16) return PyErr_Format(PyExc_ValueError, "bits must be 1, 8 or 16, got %d", bits);
    const Kernel kernel = find_kernel(name);
    if (!kernel || matrix(objects[0], "out", "f", 4, PyBUF_WRITABLE, &out)) return NULL;
    if (matrix(objects[1], "codes", bits == 1 ? "B" : bits == 8 ? "b" : "e", bits == 16 ? 2 : 1, 0, &codes)) goto no_codes;
    if (matrix(objects[2], "scales", "f", 4, 0, &scales)) goto no_scales;
    if (matrix(objects[3], "queries", "f", 4, 0, &queries)) goto no_queries;
    result = score_views(kernel, &out, &codes, &scales, &queries, block, bits);
    PyBuffer_Release(&queries);
no_queries:
    PyBuffer_Release(&scales);
no_scales:
    PyBuffer_Release(&codes);
no_codes:
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef METHODS[] = {
    {"score", score, METH_VARARGS, "score(out, codes, scales, queries, block, bits, kernel): fill out [Q, M]."},
    {"kernels", kernels, METH_NOARGS, "Names of the kernels that run on this processor, fastest first."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", "Inner products of stored codes.", -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
#ifdef WHENCE_X86
    __builtin_cpu_init();
#endif
    return PyModule_Create(&MODULE);
}
