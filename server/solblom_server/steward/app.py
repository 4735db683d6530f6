"""The page as a web application: one address for each view, nothing that changes anything."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from solblom_protocol.errors import RunError, SolblomError
from solblom_server.steward.artefact_files import model_folder
from solblom_server.steward.blocks import Page
from solblom_server.steward.dpo_sheet import dpo_page
from solblom_server.steward.languages import LANGUAGES, language_of, texts
from solblom_server.steward.records import Records, open_records
from solblom_server.steward.rendering import render_page, render_problem
from solblom_server.steward.scene import Scene, Subject
from solblom_server.steward.session import Door
from solblom_server.steward.views_compare import comparison_page, comparisons_page
from solblom_server.steward.views_evaluation import evaluation_page
from solblom_server.steward.views_home import home_page
from solblom_server.steward.views_lineage import lineage_page, updates_page
from solblom_server.steward.views_model import card_page, model_page, signatures_page, verify_page
from solblom_server.steward.views_run import run_page
from solblom_server.steward.views_site import incidents_page, log_page
from solblom_server.steward.views_study import study_page

LANGUAGE_COOKIE = "solblom_language"
MOST_PAGES = 100_000
View = Callable[[Scene, Records], Page]
SUBJECT_VIEWS: dict[str, Callable[[Scene, Subject], Page]] = {
    "evaluation": evaluation_page,
    "lineage": lineage_page,
    "updates": updates_page,
    "signatures": signatures_page,
    "card": card_page,
    "verify": verify_page,
}


def steward_app(scene: Scene, door: Door) -> FastAPI:
    """Return the application over a folder, behind its door."""
    # No description of itself: /docs would load scripts from a CDN.
    app = FastAPI(title="Solblom", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(door.guard)
    style = (files("solblom_server.steward") / "static" / "steward.css").read_text("utf-8")

    @app.get("/static/steward.css")
    def stylesheet() -> Response:
        return Response(style, media_type="text/css; charset=utf-8")

    @app.exception_handler(404)
    def unknown(request: Request, _: Exception) -> Response:
        there = in_language(scene, request)
        error = RunError(
            "SB-503", there.texts("problem.no_page"), there.texts("problem.no_page_hint")
        )
        return _answer(request, there, render_problem(there, error), 404)

    _add_places(app, scene)
    _add_models(app, scene)
    return app


def _add_places(app: FastAPI, scene: Scene) -> None:
    """Add home, studies, runs, comparisons, incidents and log."""

    @app.get("/")
    def home(request: Request, page: Annotated[int, Query(ge=1, le=MOST_PAGES)] = 1) -> Response:
        return show(scene, request, lambda here, records: home_page(here, records, page=page))

    @app.get("/studies/{key}")
    def study(request: Request, key: str) -> Response:
        return show(scene, request, lambda h, r: study_page(h, r, r.study(f"sha256:{key}")))

    @app.get("/studies/{key}/dpo")
    def dpo(request: Request, key: str) -> Response:
        return show(scene, request, lambda h, r: dpo_page(h, r, r.study(f"sha256:{key}")))

    @app.get("/runs/{run}")
    def run_view(request: Request, run: str) -> Response:
        return show(scene, request, lambda here, records: run_page(here, records, records.run(run)))

    @app.get("/comparisons")
    def comparisons(request: Request) -> Response:
        return show(scene, request, lambda here, _: comparisons_page(here))

    @app.get("/comparisons/{number}")
    def comparison(request: Request, number: int) -> Response:
        return show(scene, request, lambda here, _: comparison_page(here, number))

    @app.get("/incidents")
    def incidents(request: Request) -> Response:
        return show(scene, request, incidents_page)

    @app.get("/log")
    def log(request: Request) -> Response:
        return show(scene, request, log_page)


def _add_models(app: FastAPI, scene: Scene) -> None:
    """Add the views of a version."""

    @app.get("/models/{name}/{version}")
    def model(request: Request, name: str, version: str) -> Response:
        return show(
            scene, request, lambda h, records: model_page(h, records, subject_of(h, name, version))
        )

    @app.get("/models/{name}/{version}/{view}")
    def model_view(
        request: Request, name: str, version: str, view: str, fresh: bool = False
    ) -> Response:
        def find(here: Scene, _: Records) -> Page:
            if view not in SUBJECT_VIEWS:
                raise RunError("SB-503", here.texts("problem.no_page"))
            is_fresh = fresh and view == "verify"
            return SUBJECT_VIEWS[view](here, subject_of(here, name, version, fresh=is_fresh))

        return show(scene, request, find)


def subject_of(scene: Scene, name: str, version: str, *, fresh: bool = False) -> Subject:
    """Return a version and its verdict; `fresh`: every byte is read now.

    Raises:
        RunError: SB-503.
    """
    folder = model_folder(scene.models, name, version)
    verifier = scene.verifier
    judgement = verifier.verify(folder) if fresh else verifier.judge(folder)
    return Subject(name, int(version.removeprefix("v")), folder, judgement)


def in_language(scene: Scene, request: Request) -> Scene:
    """Return the scene in the language that a request asks for, once for all with `?lang=`."""
    asked = request.query_params.get("lang") or request.cookies.get(LANGUAGE_COOKIE)
    accept = request.headers.get("accept-language", "")
    return replace(scene, texts=texts(language_of(asked, accept)))


def show(scene: Scene, request: Request, view: View) -> Response:
    """Answer with a view; what cannot be shown is said with its code."""
    here = in_language(scene, request)
    try:
        with open_records(here.home) as records:
            page = view(here, records)
        return _answer(request, here, render_page(here, page, request.url.path), 200)
    except SolblomError as error:
        status = 404 if error.code in ("SB-502", "SB-503") else 500
        return _answer(request, here, render_problem(here, error), status)


def _answer(request: Request, scene: Scene, body: str, status: int) -> Response:
    if request.method == "HEAD":
        return PlainTextResponse("", status)
    response = HTMLResponse(body, status)
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, scene.texts.language, path="/", httponly=True, samesite="strict"
        )
    return response
