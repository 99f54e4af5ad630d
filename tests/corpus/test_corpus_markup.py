"""What a reader of a page would see."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firstlight.corpus import CorpusSettings, Tally
from firstlight.corpus.readers.markup import HtmlReader, _visible

PIECES = [
    "<p>",
    "</p>",
    "<br>",
    "<b>",
    "</b>",
    " ",
    "\n",
    "word",
    "&amp;",
    "<pre>",
    "</pre>",
    "<td>",
    "<tr>",
    "<!-- x -->",
]


def seen(page: str) -> str:
    return "".join(_visible(iter([page])))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<h1>Title</h1>text<p>more", "Title\n\ntext\n\nmore"),
        ("<ul><li>a</li><li>b</li></ul>", "a\nb"),
        ("<ul><li>a<li>b</ul>", "a\nb"),
        ("a<br>b<br><br>c<br><br><br><br>d", "a\nb\n\nc\n\nd"),
        ("<div>a<div>b</div></div>c", "a\nb\nc"),
        ("one <b> two</b>\n three", "one two three"),
        ("un<b>split</b>ted", "unsplitted"),
        ("  \n<p>  a \t b  \n</p>\n ", "a b"),
        ("<table><tr><th>a</th><th>b</th></tr>\n<tr> <td>1</td> <td>2</td> </tr></table>", "a\tb\n1\t2"),
        ("<table><tr><td>a<td>b<tr><td>c", "a\tb\nc"),
        ("x<pre>\ndef f():\n    return  1\n\n\n\nf()\n</pre>y", "x\n\ndef f():\n    return  1\n\n\n\nf()\n\ny"),
        ("<pre>a\n<b>b</b>\nc</pre>", "a\nb\nc"),
        ("a &amp; b &lt;c&gt; &#20013;&nbsp;d &copy", "a & b <c> 中\xa0d ©"),
        ("\u3000\u3000中文", "\u3000\u3000中文"),
        ("<html><head><title>no</title><meta charset=utf-8><style>p{}</style></head><body>yes", "yes"),
        ("<head><title>no</title><p>a head that nothing closes", "a head that nothing closes"),
        ("a<script>if (a < b) { '<p>' }</script>b<!-- c --><svg><text>d</text></svg>", "ab"),
        ("<noscript>a</noscript><template>b</template>c</script></p>", "c"),
        ("1 < 2 & 3 > 2", "1 < 2 & 3 > 2"),
        ("", ""),
        ("<p> </p>", ""),
    ],
)
def test_visible_text(page: str, text: str):
    assert seen(page) == text


@given(st.lists(st.sampled_from(PIECES), max_size=25), st.integers(1, 7))
@example(["<pre>", "<p>", "\n", " "], 1)
def test_borders_change_nothing(page: list[str], size: int):
    text = "".join(page)
    found = list(_visible(iter([text[i : i + size] for i in range(0, len(text), size)])))
    assert "".join(found) == seen(text)
    assert "" not in found


@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_no_blank_edges_and_no_two_blank_lines(page: list[str]):
    text = seen("".join(p for p in page if "pre" not in p))
    assert text == text.strip()
    assert "\n\n\n" not in text
    assert "  " not in text


def test_a_page_without_text_is_an_empty_document(tmp_path: Path):
    path = tmp_path / "a.html"
    path.write_text("<html><body><img src=x></body></html>")
    [document] = HtmlReader().read(path, CorpusSettings(), Tally())
    assert (document.content, document.continues) == ("", False)


def test_a_long_page_is_one_document_in_pieces(tmp_path: Path):
    path = tmp_path / "a.html"
    with path.open("w") as file:
        file.writelines(f"<p>paragraph {i} of many, which together fill some pieces\n" for i in range(40_000))
    documents = list(HtmlReader().read(path, CorpusSettings(), Tally()))
    assert len(documents) > 1
    assert [d.continues for d in documents] == [True] * (len(documents) - 1) + [False]
    text = "".join(str(d.content) for d in documents)
    assert text == "\n\n".join(f"paragraph {i} of many, which together fill some pieces" for i in range(40_000))
