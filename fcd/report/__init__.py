"""Masks -> figures: one run's evaluation, and many runs side by side.

In: predicted scenes and what they are compared with; results of evaluated runs. Out: metrics.json,
tables, pictures, plots and self-contained pages. It stands on masks; cli and the top level may
enter.

evaluation   one run: scenes, strip by strip -> counts, pictures, metrics.json, metrics.csv, page
results      what metrics.json holds, in the names and words that both pages use
run_page     the page of one run
runs         evaluated runs: read, checked, put together by method; folds pooled
intervals    how sure a figure is: bootstrap over scenes
comparison   many runs -> tables, figure and page
plots        curves and bars as SVG
page         templates/ -> HTML with pictures and plots inside
"""
