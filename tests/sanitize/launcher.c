/* A Python interpreter that is linked with the sanitizers. The options are compiled in, so that
 * processes without an environment have them too. REPORT is the path of reports without the pid. */
#include <Python.h>
#include <stdlib.h>
#include <string.h>

const char *__asan_default_options(void)
{
    /* Leaks only write a report: a special exit code would make tests of exit codes fail. malloc
     * must return NULL for an impossible size. */
    return "abort_on_error=1:detect_leaks=1:exitcode=0:allocator_may_return_null=1:log_path=" REPORT;
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1:halt_on_error=1:log_path=" REPORT;
}

/* Leaks of other code: after a fork CPython allocates its locks again. */
const char *__lsan_default_suppressions(void)
{
    return "leak:_pydantic_core\nleak:PyThread_allocate_lock\n";
}

/* Leaks of pytest and of client libraries are not reported. */
static int is_nutproxy;

int __lsan_is_turned_off(void)
{
    return !is_nutproxy;
}

const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++)
        is_nutproxy |= strcmp(argv[at], "nutproxy") == 0;
    /* Every object is a separate block. */
    setenv("PYTHONMALLOC", "malloc", 1);
    return Py_BytesMain(argc, argv);
}
